//! How clients use the endpoints of Services: TrafficPolicies.
//!
//! A policy applies to all clients of the mesh, sidecars and Gateways alike. For each section the
//! nearest policy decides: that of a Service's port before that of the Service, of its namespace
//! and of the mesh; a section of `overrides` comes before all `defaults`, and there the farthest
//! policy decides.
//!
//! Source: GEP-713 (inherited policies); Envoy (`config.cluster.v3.OutlierDetection`).

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
    validation = Rule::new("has(self.outlierDetection) || has(self.retryBudget)").message("at least one section is required")
)]
pub struct TrafficSections {
    /// An endpoint that fails several requests in a row gets none for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How many requests are sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

/// How many requests each client proxy sends again, in the last 10 seconds: whether a rule asks for
/// it, or because the request did not reach an application. Beyond it, the last result stands.
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
}

/// Which endpoints are ejected, and for how long. Each client proxy counts for itself.
///
/// An endpoint whose time is over is used again: its first success counts as recovery, its first
/// failure ejects it again, for longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.consecutive5xx) || has(self.consecutiveGatewayErrors)")
        .message("consecutive5xx or consecutiveGatewayErrors is required")
)]
pub struct OutlierDetection {
    /// Failures in a row after which an endpoint is ejected: responses with a 5xx status, failed
    /// connections, responses that break off, and timeouts of the rule. Absent: they are not
    /// counted. The status of a gRPC call counts as that of HTTP which it stands for.
    #[serde(
        rename = "consecutive5xx",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_5xx: Option<u32>,
    /// The same for those failures with status 502, 503 or 504, or without a response. Another
    /// 5xx status ends the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_gateway_errors: Option<u32>,
    /// How long an endpoint is ejected at first: 100ms to 1h, 30s if absent. Doubled each time that
    /// it fails again, up to `maxEjectionTime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub base_ejection_time: Option<String>,
    /// The longest time: at least `baseEjectionTime`, at most 1h; 300s if absent, or
    /// `baseEjectionTime` if that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub max_ejection_time: Option<String>,
    /// The percentage of the endpoints that are ejected at a time; 50 if absent. One may always be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_ejection_percent: Option<u32>,
    /// If a smaller percentage of the endpoints than this is healthy, all are used; 0 if absent:
    /// all are used only if none is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: Option<u32>,
}
