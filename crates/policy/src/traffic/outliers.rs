//! Outlier detection.
//!
//! Source: Envoy, `config.cluster.v3.OutlierDetection`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

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
