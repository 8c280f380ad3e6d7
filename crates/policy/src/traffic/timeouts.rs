//! Timeouts.
//!
//! Source: Gateway API v1.6.3, `HTTPRouteTimeouts`; Envoy, `config.cluster.v3.Cluster`
//! (`connect_timeout`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long requests may take, unless the rule that sends them says so itself: for rules of
/// GRPCRoutes, and for Services without routes. Each field of a rule's own `timeouts` comes before
/// the same one here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTimeouts {
    /// From the head of the request to the end of its response, retries and streams of gRPC
    /// included. 0s or absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub request: Option<String>,
    /// The same for one attempt with one endpoint; at most `request`. 0s or absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub backend_request: Option<String>,
    /// How long a request waits for a connection to an endpoint, before it goes to another one:
    /// 10ms to 5s, 5s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub connect: Option<String>,
}
