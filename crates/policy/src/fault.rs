//! Faults that a rule of a route injects on purpose: FaultFilters.
//!
//! A filter of type `ExtensionRef` of an HTTPRoute or a GRPCRoute names one of its own namespace.
//!
//! Source: Envoy, `extensions.filters.http.fault.v3.HTTPFault`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done to the requests of a rule: they are delayed, then aborted, each by chance.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema,
)]
#[kube(
    group = "policy.weft.dev",
    version = "v1alpha1",
    kind = "FaultFilter",
    plural = "faultfilters",
    namespaced,
    derive = "PartialEq",
    shortname = "wfault",
    category = "weft",
    doc = "Faults that rules of routes inject, by a filter of type ExtensionRef.",
    printcolumn(json_path = ".spec.delay.duration", name = "Delay", type_ = "string"),
    printcolumn(json_path = ".spec.abort.httpStatus", name = "HTTP", type_ = "integer"),
    printcolumn(json_path = ".spec.abort.grpcStatus", name = "gRPC", type_ = "integer"),
    printcolumn(
        json_path = ".metadata.creationTimestamp",
        name = "Age",
        type_ = "date"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.delay) || has(self.abort)")
        .message("delay or abort is required")
)]
pub struct FaultFilterSpec {
    /// The requests that have this header; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<FaultHeader>,
    /// How long requests wait before they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// What requests are answered, in place of being sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A header of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultHeader {
    /// Its name.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = "^[A-Za-z0-9!#$%&'*+\\-.^_\x60|~]+$")
    )]
    pub name: String,
    /// Its whole value; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
}

/// A delay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long: 1ms to 1m.
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub duration: String,
    /// Of how many requests; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<u32>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.httpStatus) != has(self.grpcStatus)")
        .message("exactly one of httpStatus and grpcStatus is required")
)]
pub struct FaultAbort {
    /// The status of HTTP. A call of gRPC gets the status of gRPC that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub http_status: Option<u32>,
    /// The status of gRPC. A request that is no call gets the status of HTTP that it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u32>,
    /// Of how many requests; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<u32>,
}
