//! The metadata that every object has.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::lenient::or_default;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    /// Empty for objects of the cluster.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub generation: i64,
    /// RFC 3339 in UTC with seconds, as the API server writes it: ordered as text. Empty sorts first.
    #[serde(deserialize_with = "or_default")]
    pub creation_timestamp: String,
    /// When the object was asked to go, in the same form; empty while nobody has.
    #[serde(deserialize_with = "or_default")]
    pub deletion_timestamp: String,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}
