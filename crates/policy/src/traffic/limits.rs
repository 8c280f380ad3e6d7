//! Limits.
//!
//! Source: Envoy, `config.cluster.v3.CircuitBreakers.Thresholds`, whose names the fields have; with
//! a queue that is first in, first out, and whose waits are bounded.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How much a Service gets at a time. What is beyond is answered with 503, or closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.client) || has(self.server)")
        .message("client or server is required")
)]
pub struct Limits {
    /// What each client proxy sends to the Service port, to all endpoints together. Each proxy
    /// counts for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientLimits>,
    /// What each pod of the Service port gets, from all clients together, of the mesh or not. Its
    /// own proxy counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerLimits>,
}

/// Limits that each client proxy enforces for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.maxRequests) || has(self.maxConnections)")
        .message("maxRequests or maxConnections is required"),
    validation = Rule::new("has(self.maxRequests) || !has(self.maxPendingRequests)")
        .message("maxPendingRequests needs maxRequests"),
    validation = Rule::new("has(self.maxPendingRequests) || !has(self.queueTimeout)")
        .message("queueTimeout needs maxPendingRequests")
)]
pub struct ClientLimits {
    /// Connections that are forwarded as bytes: those that are not HTTP, and those of TCPRoutes and
    /// TLSRoutes. A further one is closed. Requests share connections, and are limited by
    /// `maxRequests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Requests under way, from the choice of an endpoint to the end of the response, or of the
    /// connection that it was upgraded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// Requests beyond `maxRequests` that wait, first in, first out. Absent or 0: none waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// The longest wait, 1ms to 1m; 1s if absent. It is part of the timeouts of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub queue_timeout: Option<String>,
}

/// Limits that the proxy of each pod enforces over all clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.maxPendingRequests) || !has(self.queueTimeout)")
        .message("queueTimeout needs maxPendingRequests")
)]
pub struct ServerLimits {
    /// Requests that the application has at a time. Probes of the kubelet do not count.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: u32,
    /// Requests beyond `maxRequests` that wait, first in, first out. Absent or 0: none waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// The longest wait, 1ms to 1m; 1s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub queue_timeout: Option<String>,
}
