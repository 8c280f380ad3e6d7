//! The configuration of proxies as a data model, and how requests match it.
//!
//! Types are valid by construction: a [`Pattern`] compiles, an [`Identity`] is a SPIFFE ID, a
//! header name is valid. Input is parsed at the boundaries (`weft-api`, `weft-translate`). This
//! crate does no I/O and depends neither on Kubernetes nor on the wire format.

#![warn(missing_docs)]

mod authentication;
mod authorization;
mod choice;
mod config;
mod connection;
mod cors;
mod external_auth;
mod fault;
mod fraction;
mod gateway;
mod hosts;
mod identity;
mod matching;
mod names;
mod pattern;
mod percent;
mod route;
mod route_table;
mod size;
mod traffic;

pub use authentication::{
    Authentication, ClaimHeader, ClaimMatch, Claims, JsonWebKey, JwtProvider, KeyMaterial,
    TokenAlgorithm, TokenLocation, TokenMatch, claim_text,
};
pub use authorization::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizations,
    Authorizer, ConnectionAuthorization, Decision, DefaultAuthorization, DefaultAuthorizationError,
    Denial, Peer, PolicyEffect, PolicyId, PolicyKind, RouteSection, SourceMatch,
};
pub use choice::{Choice, Hints, Locality};
pub use config::{
    Destination, Endpoint, EndpointSet, Mode, Probe, ProbeRequest, Protocol, Routing, Service,
    Target, TrustedRoots, Workload,
};
pub use connection::{ConnectionRule, TlsRule, find_tls};
pub use cors::{Allowed, Cors, OriginError, OriginHost, OriginPattern};
pub use external_auth::{ExternalAuth, ExternalAuthProtocol, HeaderSelection, HttpAuth};
pub use fault::{
    FaultAbort, FaultDelay, FaultHeader, FaultInjection, FaultStatus, GrpcError, HttpError,
};
pub use fraction::Fraction;
pub use gateway::{
    AlternativeName, BackendRoots, BackendTls, ClientValidation, ForwardedHeader, ForwardedTrust,
    Gateway, GatewayId, GatewayPort, HttpListener, KeyPair, ServerTls, ServiceRules, Serving,
    StreamListener, TlsListener, TlsServing, VirtualHost,
};
pub use hosts::{HostMap, HostPattern, HostPatternError, bare_host};
pub use identity::{Identity, IdentityError, TrustDomain};
pub use ipnet::IpNet;
pub use matching::{decode_query, query_value};
pub use names::{
    ResourceKey, ResourceKeyError, ServiceId, ServiceKind, ServicePort, ServicePortError, Transport,
};
pub use pattern::{MAX_PATTERN_TEXT, Pattern, PatternError, Patterns, character_classes};
pub use percent::Percent;
pub use route::{
    Backend, Filter, HeaderEdit, HeaderMatch, Mirror, PathEdit, PathMatch, QueryMatch, Redirect,
    RequestMatch, Retry, Rewrite, RouteId, RouteKind, Rule, TimeLimit, Timeouts, ValueMatch,
    WeightedBackend,
};
pub use route_table::{Matched, RouteTable};
pub use traffic::{
    Algorithm, BalancingMethod, BudgetInterval, CheckTiming, ClientLimits, ConnectTimeout,
    ConsistentHash, EjectionTime, GrpcStatuses, HashCookie, HashKey, HealthCheck, HealthChecks,
    HttpHealthCheck, Limits, LoadBalancing, LoadFactor, OutlierDetection, PolicyTimeouts, Queue,
    RequestLimit, Retries, RetryBudget, SlowStart, StatusRange, TrafficPolicy, ZonePreference,
};
