//! Conditions on requests, in the shapes of HTTPRoutes and GRPCRoutes.
//!
//! Source: Gateway API v1.7.0, `HTTPRouteMatch`, `GRPCMethodMatch`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Conditions that must all be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.grpc) || (!has(self.path) && !has(self.method))")
        .message("grpc cannot be combined with path or method")
)]
pub struct RequestMatch {
    /// The path; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method, in upper case; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[A-Z]+$"))]
    pub method: Option<String>,
    /// Headers; each must be met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<ValueMatch>,
    /// Query parameters; each must be met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_params: Vec<ValueMatch>,
    /// The gRPC method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
}

/// A condition on the path in its normal form: dot segments are resolved, slashes merged, and
/// escapes of unreserved characters decoded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// How `value` is compared; `PathPrefix` if absent.
    #[serde(rename = "type", default)]
    pub kind: PathMatchType,
    /// The path; begins with a slash unless it is a regular expression.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How paths are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// By whole path elements.
    #[default]
    PathPrefix,
    /// The whole path matches the regular expression.
    RegularExpression,
}

/// A condition on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// How `value` is compared; `Exact` if absent.
    #[serde(rename = "type", default)]
    pub kind: ValueMatchType,
    /// The name; of headers in any case.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// The value.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// How values are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ValueMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// The whole value matches the regular expression.
    RegularExpression,
}

/// A gRPC service, a method, or a method of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.service) || has(self.method)")
        .message("service or method is required")
)]
pub struct GrpcMatch {
    /// The service with its package; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub service: Option<String>,
    /// The method; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub method: Option<String>,
}
