//! Routes as a proxy sees them: rules, what they match, what they do to a request, and where it goes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::cors::Cors;
use crate::names::ServicePort;
use crate::pattern::Pattern;

/// The kind of route that a rule came from: it decides how failures are told to the client.
///
/// In ascending order: the kind that goes before the others on one Service port (GEP-1294, "Route types") is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    Grpc,
    Http,
    Tls,
    Tcp,
    Udp,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        })
    }
}

/// The route object that a rule came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteId {
    pub kind: RouteKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One rule of a route. It takes a request that any of its matches takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub route: RouteId,
    /// Place in the route, from 0.
    pub index: u32,
    pub name: Option<Arc<str>>,
    /// At least one; the translator writes the implied `/` prefix out.
    pub matches: Vec<RequestMatch>,
    pub filters: Vec<Filter>,
    pub backends: Vec<WeightedBackend>,
    pub timeouts: Timeouts,
    /// `None`: only what surely never reached an application is sent again.
    pub retry: Option<Retry>,
    /// Every request that the rule takes is answered with 500 and this reason.
    pub failure: Option<Arc<str>>,
}

/// Conditions of which all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// `None`: any path.
    pub path: Option<PathMatch>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    pub method: Option<Method>,
    /// A condition did not compile and is left out here: tried after all other matches, and answered with 500.
    pub broken: bool,
}

/// A condition on the path. gRPC methods are paths too: `/package.Service/Method`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// By whole path elements: `/a` takes `/a` and `/a/b`, not `/ab`. A trailing slash means nothing.
    Prefix(String),
    Regex(Pattern),
    /// gRPC: this method of any service.
    GrpcMethod(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    Regex(Pattern),
}

impl ValueMatch {
    pub fn takes(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

/// What a rule, or one of its backends, does to a request or its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    RequestHeaders(HeaderEdit),
    ResponseHeaders(HeaderEdit),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
    Cors(Cors),
}

/// Applied in the order set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None`: the request's own.
    pub scheme: Option<Arc<str>>,
    pub host: Option<Arc<str>>,
    /// `None`: by the specification's rule (the scheme's well-known port, else the port the request came to).
    pub port: Option<u16>,
    pub path: Option<PathEdit>,
    pub code: StatusCode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub host: Option<HeaderValue>,
    pub path: Option<PathEdit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    Full(String),
    /// Replaces the prefix that the match took.
    Prefix(String),
}

/// A copy of `numerator` in `denominator` requests goes to this Service port too, and its answer nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub to: ServicePort,
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
}

/// When a request is sent again. Connection errors and timeouts of a try count as failures too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Answers that count as failures, whatever the request's method.
    pub codes: Vec<StatusCode>,
    /// Tries beside the first one; 0: none, [`Retry::MAX_ATTEMPTS`] at most.
    pub attempts: u32,
    /// The shortest wait before a try that is not the first.
    pub backoff: Duration,
}

impl Retry {
    /// What is above is the same as this.
    pub const MAX_ATTEMPTS: u32 = 10;
    /// A shorter wait is as long as this.
    pub const LEAST_BACKOFF: Duration = Duration::from_millis(25);
}

/// `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's first byte to the response's last.
    pub request: Option<Duration>,
    /// One try against one backend.
    pub backend: Option<Duration>,
}

/// A backend and its share: `weight` of the sum of all weights of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    pub weight: u32,
    pub backend: Backend,
    pub filters: Vec<Filter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The endpoints of this port of a Service or ServiceImport; its own routes are not applied again.
    Service(ServicePort),
    /// Leads nowhere, for this reason: its share of requests is answered with 500.
    Invalid(Arc<str>),
}
