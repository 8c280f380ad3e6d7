//! The labels of metrics as types: which values each may have, and under which names they are
//! written.
//!
//! Parent, route and backend have a label for each part of their names (kind, namespace, name,
//! port), so that queries select and join by equality. A label without a value is left out, which
//! means the same to Prometheus.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use weft_ir::{GatewayId, RouteId, ServicePort};

/// The labels of one series.
pub(super) type Pairs = Vec<(&'static str, String)>;

/// Types whose `as_str` is the value of a label.
macro_rules! label_values {
    ($($of:ty),*) => {$(
        impl EncodeLabelValue for $of {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                self.as_str().encode(encoder)
            }
        }
    )*};
}

label_values!(
    Direction,
    ConnectionTls,
    PassthroughReason,
    MirrorResult,
    AuthResult,
    InjectedFault
);

/// Which way a connection or request goes, seen from the pod. Those of a gateway's clients are of a
/// way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
    Gateway,
}

impl Direction {
    pub(super) const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Gateway];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// What the application's request was, as metrics and logs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    Http1,
    Http2,
    Grpc,
}

impl RequestProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
        }
    }
}

/// How a connection's bytes are protected between this proxy and the other side of the pod's
/// border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionTls {
    /// Mutual TLS between proxies.
    Mesh,
    /// TLS of the application's own, passed through.
    Application,
    /// TLS that ends at this proxy, which is a gateway's.
    Terminated,
    None,
}

impl ConnectionTls {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Application => "application",
            Self::Terminated => "terminated",
            Self::None => "none",
        }
    }
}

/// Why a connection is passed through unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassthroughReason {
    OwnAddress,
    UnknownDestination,
    ControllerUnreachable,
}

impl PassthroughReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::OwnAddress => "own_address",
            Self::UnknownDestination => "unknown_destination",
            Self::ControllerUnreachable => "controller_unreachable",
        }
    }
}

/// What came of a mirrored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorResult {
    Answered,
    Failed,
    Timeout,
    /// Too many were in flight: it was not sent.
    Dropped,
}

impl MirrorResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Dropped => "dropped",
        }
    }
}

/// What an external server decided on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthResult {
    Allowed,
    Denied,
    /// No decision came: the request is denied.
    Error,
}

impl AuthResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }
}

/// What a FaultFilter does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InjectedFault {
    Delay,
    Abort,
}

impl InjectedFault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
        }
    }
}

/// What came of a retry that a rule's `retry` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryResult {
    /// Sent, and answered by what is not to be retried.
    Succeeded,
    /// Sent, and failed as well.
    Failed,
    /// Sent, and given up by the client; or not sent because the client, the route or the process
    /// went.
    Canceled,
    /// Not sent: the rule's attempts are used up.
    LimitReached,
    /// Not sent: the retry budget of the cluster is used up.
    BudgetExhausted,
    /// Not sent: the body is too long to be kept, or memory for that is short.
    BodyNotReplayable,
    /// Not sent: the request's timeout would expire before.
    DeadlineExceeded,
}

impl RetryResult {
    pub(super) const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
        Self::LimitReached,
        Self::BudgetExhausted,
        Self::BodyNotReplayable,
        Self::DeadlineExceeded,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::LimitReached => "limit_reached",
            Self::BudgetExhausted => "budget_exhausted",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// What routes are attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Parent {
    #[default]
    None,
    Service(ServicePort),
    /// All listeners of a port: a rule that several of them have is resolved, and counted, once.
    Gateway(GatewayId, u16),
}

/// Whose rule a request or connection met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Route {
    #[default]
    None,
    /// With the rule's name, or its index.
    Rule(RouteId, Arc<str>),
    /// One of those beyond the bound of series.
    Other,
}

/// Where it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendRef {
    /// None was selected.
    #[default]
    None,
    Service(ServicePort),
    /// A pod that was addressed directly.
    Pod,
    /// A reference that does not resolve.
    Invalid,
    /// What is neither a Service nor a pod.
    Unknown,
}

/// What a request or connection is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    pub direction: Direction,
    pub parent: Parent,
    pub route: Route,
    pub backend: BackendRef,
}

impl RequestLabels {
    /// Without parent, route and backend.
    pub fn of(direction: Direction) -> Self {
        Self {
            direction,
            parent: Parent::None,
            route: Route::None,
            backend: BackendRef::None,
        }
    }

    pub(super) fn pairs(&self) -> Pairs {
        let mut pairs = vec![("direction", self.direction.as_str().to_owned())];
        match &self.parent {
            Parent::None => {}
            Parent::Service(id) => pairs.extend([
                ("parent_kind", id.service.kind.to_string()),
                ("parent_namespace", id.service.namespace.clone()),
                ("parent_name", id.service.name.clone()),
                ("parent_port", id.port.to_string()),
            ]),
            Parent::Gateway(id, port) => pairs.extend([
                ("parent_kind", "Gateway".to_owned()),
                ("parent_namespace", id.namespace.to_string()),
                ("parent_name", id.name.to_string()),
                ("parent_port", port.to_string()),
            ]),
        }
        match &self.route {
            Route::None => {}
            Route::Rule(route, rule) => pairs.extend([
                ("route_kind", route.kind.to_string()),
                ("route_namespace", route.namespace.to_string()),
                ("route_name", route.name.to_string()),
                ("rule", rule.to_string()),
            ]),
            Route::Other => pairs.push(("route_name", "other".to_owned())),
        }
        match &self.backend {
            BackendRef::None => {}
            BackendRef::Service(id) => pairs.extend([
                ("backend_kind", id.service.kind.to_string()),
                ("backend_namespace", id.service.namespace.clone()),
                ("backend_name", id.service.name.clone()),
                ("backend_port", id.port.to_string()),
            ]),
            BackendRef::Pod => pairs.push(("backend_kind", "Pod".to_owned())),
            BackendRef::Invalid => pairs.push(("backend_kind", "Invalid".to_owned())),
            BackendRef::Unknown => pairs.push(("backend_kind", "Unknown".to_owned())),
        }
        pairs
    }
}

impl fmt::Display for Route {
    /// As the access log has it: `HTTPRoute namespace/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Rule(route, _) => route.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
}

impl fmt::Display for BackendRef {
    /// As the access log has it: `namespace/service:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Service(id) => id.fmt(f),
            Self::Pod => f.write_str("pod"),
            Self::Invalid => f.write_str("invalid"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
