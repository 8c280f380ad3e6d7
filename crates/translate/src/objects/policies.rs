//! ReferenceGrants and BackendTLSPolicies.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::gateways::ObjectRef;
use super::lenient::{Lenient, list, or_default};
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ReferenceGrant {
    pub metadata: Meta,
    pub spec: Lenient<ReferenceGrantSpec>,
}

/// Unreadable entries permit nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ReferenceGrantSpec {
    #[serde(deserialize_with = "list")]
    pub from: Vec<Lenient<GrantFrom>>,
    #[serde(deserialize_with = "list")]
    pub to: Vec<Lenient<GrantTo>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct GrantFrom {
    pub group: String,
    pub kind: String,
    pub namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct GrantTo {
    pub group: String,
    pub kind: String,
    /// Absent and empty mean all objects of the kind in the grant's namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct BackendTlsPolicy {
    pub metadata: Meta,
    pub spec: Lenient<BackendTlsPolicySpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct BackendTlsPolicySpec {
    #[serde(deserialize_with = "list")]
    pub target_refs: Vec<Lenient<PolicyTarget>>,
    pub validation: Lenient<BackendTlsValidation>,
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct PolicyTarget {
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    pub kind: String,
    pub name: String,
    /// Name of a port; absent and empty mean all ports.
    #[serde(default, deserialize_with = "or_default")]
    pub section_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct BackendTlsValidation {
    /// In the policy's own namespace.
    #[serde(deserialize_with = "list")]
    pub ca_certificate_refs: Vec<Lenient<ObjectRef>>,
    /// `System`, or an unsupported value.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    #[serde(deserialize_with = "list")]
    pub subject_alt_names: Vec<Lenient<SubjectAltName>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub hostname: String,
    #[serde(default, deserialize_with = "or_default")]
    pub uri: String,
}
