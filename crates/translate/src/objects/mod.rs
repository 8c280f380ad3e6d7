//! Kubernetes objects, holding only what translation reads. Unknown fields are ignored.
//!
//! The API server checks core objects (Services, slices, pods), so those are read as they are, with absent and `null`
//! meaning empty. Routes are custom resources whose definition may be older, newer or changed: their lists hold
//! [`Lenient`] entries, so that one unreadable entry becomes a condition of its route and never stops a watch.

mod core;
mod filters;
mod lenient;
mod meta;
mod routes;

pub use core::{
    Container, ContainerPort, EndpointAddress, EndpointConditions, EndpointSlice, GrpcAction,
    Handler, HttpGet, Lifecycle, Namespace, Pod, PodIp, PodSpec, PodStatus, PortRef, Service,
    ServiceImport, ServiceImportSpec, ServicePortSpec, ServiceSpec, SlicePort, TargetRef,
};
pub use filters::{
    BackendObjectRef, CorsFilter, Fraction, HeaderFilter, HeaderValueSpec, HttpFilter,
    PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
};
pub use lenient::Lenient;
pub use meta::Meta;
pub use routes::{
    BackendRef, ByteRule, GrpcFilter, GrpcHeaderMatch, GrpcMatch, GrpcMethodMatch, GrpcRoute,
    GrpcRouteSpec, GrpcRule, HttpHeaderMatch, HttpMatch, HttpPathMatch, HttpRetry, HttpRoute,
    HttpRouteSpec, HttpRule, HttpTimeouts, ParentRef, TcpRoute, TcpRouteSpec, TlsRoute,
    TlsRouteSpec,
};
