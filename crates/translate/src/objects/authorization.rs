//! AuthorizationPolicies and ClusterAuthorizationPolicies. Their specs are read strictly: what is
//! not understood would make a policy less strict.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use weft_policy::{
    AuthorizationPolicySpec, ClusterAuthorizationPolicySpec, ClusterTarget, TargetRef,
};

use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct AuthorizationPolicy {
    pub metadata: Meta,
    pub spec: ProtectiveSpec<AuthorizationPolicySpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ClusterAuthorizationPolicy {
    pub metadata: Meta,
    pub spec: ProtectiveSpec<ClusterAuthorizationPolicySpec>,
}

/// The spec of a policy that names its targets.
pub trait Targeting: DeserializeOwned {
    type Target: DeserializeOwned;
    /// The field with the targets.
    const FIELD: &'static str;
}

impl Targeting for AuthorizationPolicySpec {
    type Target = TargetRef;
    const FIELD: &'static str = "targetRefs";
}

impl Targeting for ClusterAuthorizationPolicySpec {
    type Target = ClusterTarget;
    const FIELD: &'static str = "targets";
}

/// The spec of a policy that protects its targets.
#[derive(Clone, Debug, PartialEq)]
pub enum ProtectiveSpec<S: Targeting> {
    Valid(S),
    Unreadable(Unreadable<S::Target>),
}

/// What is known of a spec that cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable<T> {
    pub reason: String,
    /// `None` if not every target can be read.
    pub targets: Option<Vec<T>>,
}

impl<S: Targeting> Default for ProtectiveSpec<S> {
    fn default() -> Self {
        Self::Unreadable(Unreadable {
            reason: "spec is required".to_owned(),
            targets: None,
        })
    }
}

impl<'de, S: Targeting> Deserialize<'de> for ProtectiveSpec<S> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let targets = value.get(S::FIELD).cloned();
        Ok(match serde_json::from_value(value) {
            Ok(spec) => Self::Valid(spec),
            Err(error) => Self::Unreadable(Unreadable {
                reason: error.to_string(),
                targets: targets.and_then(|targets| serde_json::from_value(targets).ok()),
            }),
        })
    }
}
