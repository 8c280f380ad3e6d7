//! AuthenticationPolicies, and the keys that were fetched for them.

use serde::{Deserialize, Serialize};
use weft_policy::{AuthenticationPolicySpec, TargetRef};

use super::authorization::{ProtectiveSpec, Targeting};
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct AuthenticationPolicy {
    pub metadata: Meta,
    pub spec: ProtectiveSpec<AuthenticationPolicySpec>,
}

impl Targeting for AuthenticationPolicySpec {
    type Target = TargetRef;
    const FIELD: &'static str = "targetRefs";
}

/// Where a key set is fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
pub struct KeySource {
    pub uri: String,
    /// CA certificates in PEM for the server; `None` for those of the Web PKI.
    #[serde(default)]
    pub ca: Option<String>,
}

/// The outcome of fetching a key set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FetchedKeys {
    #[serde(flatten)]
    pub source: KeySource,
    /// The last set that was fetched.
    #[serde(default)]
    pub jwks: Option<String>,
    /// Why the last attempt failed, without anything that the server said.
    #[serde(default)]
    pub failure: Option<String>,
}
