//! Retries.
//!
//! Source: Gateway API v1.6.3, `HTTPRouteRetry` (GEP-1731); Envoy, `retriable-grpc-status-codes`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often a request is sent again, unless the rule that sends it has a `retry` of its own: for
/// rules of GRPCRoutes, and for Services without routes.
///
/// A request that did not reach an application is sent again whatever it is; one that may have, if
/// its method is idempotent, or if the failure is among `statusCodes` or `grpcStatuses`. All
/// retries together stay within `retryBudget`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// How often a request is sent again: 0 to 10, 1 if absent. 0: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<u32>,
    /// The wait before the first retry, doubled before each further one up to ten times itself,
    /// with up to half of it added at random: 25ms to 60s, 25ms if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub backoff: Option<String>,
    /// The statuses of HTTP, 400 to 599, after which a request is sent again whatever its method.
    /// 503 includes endpoints that cannot be reached, 502 connections that break, and 504 the
    /// timeout of an attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub status_codes: Vec<u32>,
    /// The statuses of gRPC after which a call is sent again, if the application ends it with the
    /// head of its response. `Unavailable` includes endpoints that cannot be reached and
    /// connections that break, and `DeadlineExceeded` the timeout of an attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(regex(
            pattern = "^(Cancelled|Unknown|InvalidArgument|DeadlineExceeded|NotFound|AlreadyExists|PermissionDenied|ResourceExhausted|FailedPrecondition|Aborted|OutOfRange|Unimplemented|Internal|Unavailable|DataLoss|Unauthenticated)$"
        ))
    )]
    pub grpc_statuses: Vec<String>,
}
