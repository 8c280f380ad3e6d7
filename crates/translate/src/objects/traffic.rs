//! TrafficPolicies. Their specs are read strictly, so that a misspelt field is reported.

use serde::Deserialize;
use weft_policy::{TrafficPolicySpec, TrafficTarget};

use super::authorization::{ProtectiveSpec, Targeting};
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct TrafficPolicy {
    pub metadata: Meta,
    pub spec: ProtectiveSpec<TrafficPolicySpec>,
}

impl Targeting for TrafficPolicySpec {
    type Target = TrafficTarget;
    const FIELD: &'static str = "targetRefs";
}
