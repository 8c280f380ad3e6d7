//! Active health checks.
//!
//! Source: Envoy, `config.core.v3.HealthCheck`; Envoy Gateway, `healthCheck.active`.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

/// How each client proxy asks endpoints whether they are healthy. It asks those of Service ports
/// that it has sent to within the last ten intervals.
///
/// An endpoint is healthy until checks say otherwise. If none is healthy, all are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("[has(self.http), has(self.grpc), has(self.tcp)].filter(set, set).size() == 1")
        .message("exactly one of http, grpc and tcp is required")
)]
pub struct HealthChecks {
    /// The time between two checks of an endpoint, up to a tenth more or less: 1s to 1h, 10s if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub interval: Option<String>,
    /// How long a check may take, its connection included: 100ms to `interval`, 1m at most;
    /// 1s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub timeout: Option<String>,
    /// Failed checks in a row after which an endpoint is unhealthy; 3 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub unhealthy_threshold: Option<u32>,
    /// Passed checks in a row after which it is healthy again; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub healthy_threshold: Option<u32>,
    /// Sends `GET`, and expects a status. Redirects are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
    /// Calls `grpc.health.v1.Health/Check`, and expects `SERVING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcHealthCheck>,
    /// Connects to the application, through its proxy if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpHealthCheck>,
}

/// A request of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHealthCheck {
    /// The path, with its query.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/[!-~]*$"))]
    pub path: String,
    /// The host, and a port if that is to be named; absent: the address of the endpoint, or the
    /// hostname of the Service's BackendTLSPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// The statuses of a healthy endpoint; 200 to 299 if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub expected_statuses: Vec<StatusRange>,
}

/// Statuses of HTTP, the last one included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.start <= self.end").message("start is at most end")
)]
pub struct StatusRange {
    /// The first one.
    #[schemars(range(min = 200, max = 599))]
    pub start: u32,
    /// The last one.
    #[schemars(range(min = 200, max = 599))]
    pub end: u32,
}

/// A call of gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcHealthCheck {
    /// The service that the server is asked for; absent: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub service: Option<String>,
}

/// A connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = allow_pruning)]
pub struct TcpHealthCheck {}

/// The API server drops unknown fields itself, and takes no definition that forbids them.
fn allow_pruning(schema: &mut Schema) {
    schema.remove("additionalProperties");
}
