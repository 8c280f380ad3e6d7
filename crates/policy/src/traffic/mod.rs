//! How clients use the endpoints of Services: TrafficPolicies.
//!
//! A policy applies to all clients of the mesh: sidecars, and Gateways. For each section the
//! nearest policy decides: that of a Service's port before that of the Service, of its namespace
//! and of the mesh; a section of `overrides` comes before all `defaults`, and there the farthest
//! policy decides.
//!
//! Source: GEP-713 (inherited policies). Each section has a file of its own.

mod balancing;
mod health;
mod limits;
mod outliers;
mod retries;
mod timeouts;

pub use balancing::{
    BalancingAlgorithm, ConsistentHash, HashCookie, HashHeader, HashKeyType, HashQueryParameter,
    LoadBalancing, SlowStart, ZonePreference,
};
pub use health::{GrpcHealthCheck, HealthChecks, HttpHealthCheck, StatusRange, TcpHealthCheck};
pub use limits::{ClientLimits, Limits, ServerLimits};
pub use outliers::OutlierDetection;
pub use retries::Retries;
pub use timeouts::PolicyTimeouts;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients use the endpoints of the targets.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "policy.weft.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    status = "crate::status::PolicyStatus",
    derive = "PartialEq",
    shortname = "wtraffic",
    category = "weft",
    category = "gateway-api",
    label("gateway.networking.k8s.io/policy", "Inherited"),
    doc = "How all clients of the mesh use the endpoints of the Services that it targets.",
    printcolumn(
        json_path = ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status",
        name = "Accepted",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.ancestors[0].conditions[?(@.type==\"weft.dev/Programmed\")].status",
        name = "Programmed",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".metadata.creationTimestamp",
        name = "Age",
        type_ = "date"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.defaults) != has(self.overrides)")
        .message("exactly one of defaults and overrides is required")
)]
pub struct TrafficPolicySpec {
    /// What the policy applies to.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TrafficTarget>,
    /// Sections that a nearer policy can replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<TrafficSections>,
    /// Sections that no nearer policy can replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<TrafficSections>,
}

/// A Service of the policy's own namespace, all of them, or those of the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.kind in ['Service', 'Namespace'] ? !has(self.group) || self.group == '' : has(self.group) && self.group == 'gateway.networking.x-k8s.io'")
        .message("group is empty for Service and Namespace, and gateway.networking.x-k8s.io for XMesh"),
    validation = Rule::new("self.kind == 'Service' || !has(self.sectionName)")
        .message("only a Service has a sectionName")
)]
pub struct TrafficTarget {
    /// The API group: empty for Service and Namespace, `gateway.networking.x-k8s.io` for XMesh.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Service`; `Namespace` for all Services of the policy's own namespace; `XMesh` for all
    /// Services, in the namespace of the control plane only.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^(Service|Namespace|XMesh)$")
    )]
    pub kind: String,
    /// The name of the object: for Namespace that of the policy's own, for XMesh `weft`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The name or number of a Service's port; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub section_name: Option<String>,
}

/// The sections of a policy. Each is used or replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.outlierDetection) || has(self.retryBudget) || has(self.limits) || has(self.loadBalancing) || has(self.healthChecks) || has(self.timeouts) || has(self.retries)").message("at least one section is required")
)]
pub struct TrafficSections {
    /// An endpoint that fails several requests in a row gets none for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How many requests are sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// How many requests and connections the Service gets at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Which endpoint takes a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Endpoints are asked whether they are healthy; one that is not gets no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_checks: Option<HealthChecks>,
    /// How long requests and connecting may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<PolicyTimeouts>,
    /// When a request is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
}

/// How many requests each client proxy sends again, in the last `interval`: whether a rule or
/// `retries` asks for it, or because the request did not reach an application. Beyond it, the last
/// result stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// The percentage of the requests; 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// Retries per second beside that percentage, for Services with few requests; 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_per_second: Option<u32>,
    /// The time for which requests and retries count: 1s to 1h, 10s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub interval: Option<String>,
}
