//! Kubernetes objects, reduced to what translation reads. Unknown fields are ignored, except in
//! protective settings. Field names and meanings are those of the API.
//!
//! The API server validates core objects (Services, slices, pods, Secrets), so they are read as
//! they are; absent and `null` mean empty. Routes, Gateways and policies are custom resources whose
//! definition can be older, newer or modified: their lists hold [`Lenient`] entries, so that an
//! unreadable entry results in a condition and never stops a watch.

mod authentication;
mod authorization;
mod backend_traffic;
mod core;
mod data;
mod fault;
mod filters;
mod gateways;
mod lenient;
mod meta;
mod policies;
mod routes;
mod traffic;

pub use authentication::{AuthenticationPolicy, FetchedKeys, KeySource};
pub use authorization::{
    AuthorizationPolicy, ClusterAuthorizationPolicy, ProtectiveSpec, Targeting, Unreadable,
};
pub use backend_traffic::{
    BackendTrafficPolicy, BackendTrafficPolicySpec, BudgetDetails, RequestRate, RetryConstraint,
};
pub use core::{
    ClientIpConfig, Container, ContainerPort, EndpointAddress, EndpointConditions, EndpointHints,
    EndpointSlice, GrpcAction, Handler, HintFor, HttpGet, Ingress, Lifecycle, LoadBalancer,
    Namespace, Node, Pod, PodIp, PodSpec, PodStatus, PortRef, Service, ServiceImport,
    ServiceImportSpec, ServicePortSpec, ServiceSpec, ServiceStatus, SessionAffinityConfig,
    SlicePort, TargetRef, ZONE_LABEL,
};
pub use data::{
    ClusterTrustBundle, ClusterTrustBundleSpec, ConfigMap, Secret, SecretBytes, SecretData,
};
pub use fault::FaultFilter;
pub use filters::{
    BackendObjectRef, CorsFilter, ExtensionRef, ExternalAuthFilter, ForwardBody, Fraction,
    GrpcAuthConfig, HeaderFilter, HeaderValueSpec, HttpAuthConfig, HttpFilter, PathModifier,
    RequestMirror, RequestRedirect, UrlRewrite,
};
pub use gateways::{
    AllowedListeners, AllowedRoutes, BackendTlsConfig, FromNamespaces, FrontendTls,
    FrontendTlsConfig, FrontendValidation, Gateway, GatewayAddress, GatewayClass, GatewayClassSpec,
    GatewaySpec, GatewayTls, GroupKind, Infrastructure, Listener, ListenerFilter, ListenerFilters,
    ListenerSet, ListenerSetSpec, ListenerTls, ObjectRef, ParametersRef, PortTls,
};
pub use lenient::Lenient;
pub use meta::Meta;
pub use policies::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsValidation, GrantFrom, GrantTo, PolicyTarget,
    ReferenceGrant, ReferenceGrantSpec, SubjectAltName,
};
pub use routes::{
    BackendRef, ConnectionRuleSpec, GrpcFilter, GrpcHeaderMatch, GrpcMatch, GrpcMethodMatch,
    GrpcRoute, GrpcRouteSpec, GrpcRule, HttpHeaderMatch, HttpMatch, HttpPathMatch, HttpRetry,
    HttpRoute, HttpRouteSpec, HttpRule, HttpTimeouts, ParentRef, TcpRoute, TcpRouteSpec, TlsRoute,
    TlsRouteSpec, UdpRoute,
};
pub use traffic::TrafficPolicy;
pub use weft_policy::{LabelRequirement, LabelSelector};

/// Returns a valid port number, 1 to 65535.
pub(crate) fn port_number(port: i64) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}
