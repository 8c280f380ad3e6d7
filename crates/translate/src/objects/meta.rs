//! The metadata of every object.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::lenient::or_default;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    /// Empty for cluster-scoped objects.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub generation: i64,
    /// RFC 3339 in UTC with seconds, as the API server writes it, so that it can be compared as
    /// text. Empty sorts first.
    #[serde(deserialize_with = "or_default")]
    pub creation_timestamp: String,
    /// Time of the deletion request, in the same format; empty if the object is not being deleted.
    #[serde(deserialize_with = "or_default")]
    pub deletion_timestamp: String,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}
