//! XBackendTrafficPolicies of the Gateway API (GEP-3388). They tune: unknown fields are ignored.

use serde::Deserialize;

use super::lenient::{Lenient, list};
use super::meta::Meta;
use super::policies::PolicyTarget;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct BackendTrafficPolicy {
    pub metadata: Meta,
    pub spec: Lenient<BackendTrafficPolicySpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct BackendTrafficPolicySpec {
    #[serde(deserialize_with = "list")]
    pub target_refs: Vec<Lenient<PolicyTarget>>,
    pub retry_constraint: Option<Lenient<RetryConstraint>>,
    /// Not supported.
    pub session_persistence: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct RetryConstraint {
    pub budget: Option<BudgetDetails>,
    pub min_retry_rate: Option<RequestRate>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct BudgetDetails {
    pub percent: Option<i64>,
    pub interval: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct RequestRate {
    pub count: Option<i64>,
    pub interval: Option<String>,
}
