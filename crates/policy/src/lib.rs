//! The custom resources of the API group `policy.weft.dev`, as Rust types with their schemas.
//!
//! The definitions in `charts/weft-crds` are generated from these types ([`definitions`]). The API
//! server validates objects by them; whoever reads the objects validates again, since a cluster can
//! have the definitions of another version.
//!
//! Every type has `deny_unknown_fields`: a field that is not understood makes a policy unreadable
//! instead of less strict.
//!
//! Source: GEP-3779 (`AuthorizationPolicy`, and the types below it), GEP-713 (targets and status).

#![warn(missing_docs)]
#![allow(
    clippy::duplicated_attributes,
    reason = "columns of one definition repeat the keys of their attributes"
)]
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the visibility of a type on a private copy of it"
)]

mod authentication;
mod authorization;
mod fault;
mod requests;
mod status;
mod target;
mod traffic;

pub use authentication::{
    AuthenticationMode, AuthenticationPolicy, AuthenticationPolicySpec, CaCertificateRef,
    ClaimToHeader, JwksSource, JwtProvider, TokenHeader, TokenSources,
};
pub use authorization::{
    Action, ApplicationAttributes, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule,
    ClusterAuthorizationPolicy, ClusterAuthorizationPolicySpec, JwtClaim, JwtSource,
    NetworkAttributes, Source, SourceAccount, SourceType,
};
pub use fault::{FaultAbort, FaultDelay, FaultFilter, FaultFilterSpec, FaultHeader};
pub use requests::{GrpcMatch, PathMatch, PathMatchType, RequestMatch, ValueMatch, ValueMatchType};
pub use status::{AncestorRef, AncestorStatus, Condition, PolicyStatus};
pub use target::{ClusterTarget, LabelRequirement, LabelSelector, TargetRef};
pub use traffic::{
    BalancingAlgorithm, ClientLimits, ConsistentHash, GrpcHealthCheck, HashCookie, HashHeader,
    HashKeyType, HashQueryParameter, HealthChecks, HttpHealthCheck, Limits, LoadBalancing,
    OutlierDetection, PolicyTimeouts, Retries, RetryBudget, ServerLimits, SlowStart, StatusRange,
    TcpHealthCheck, TrafficPolicy, TrafficPolicySpec, TrafficSections, TrafficTarget,
    ZonePreference,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of the kinds.
pub const GROUP: &str = "policy.weft.dev";

/// Returns the definition of every kind, by name.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        AuthenticationPolicy::crd(),
        AuthorizationPolicy::crd(),
        ClusterAuthorizationPolicy::crd(),
        FaultFilter::crd(),
        TrafficPolicy::crd(),
    ]
}
