//! Routes as a proxy sees them: rules, what they match, how they change a request, and where they
//! send it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::cors::Cors;
use crate::external_auth::ExternalAuth;
use crate::fault::FaultInjection;
use crate::fraction::Fraction;
use crate::names::ServicePort;
use crate::pattern::Pattern;

/// The kind of the route that a rule belongs to. It decides how failures are reported to the
/// client.
///
/// In ascending order of precedence on a Service port: the kind that takes precedence is the least
/// (GEP-1294, "Route types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// GRPCRoute.
    Grpc,
    /// HTTPRoute.
    Http,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute.
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

/// The route that a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId {
    /// Kind of the route.
    pub kind: RouteKind,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A rule of a route. It applies to requests that meet any of its matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The route that the rule belongs to.
    pub route: RouteId,
    /// Position in the route, from 0.
    pub index: u32,
    /// Name of the rule.
    pub name: Option<Arc<str>>,
    /// At least one: the implied prefix `/` is written out.
    pub matches: Vec<RequestMatch>,
    /// Filters, applied in order.
    pub filters: Vec<Filter>,
    /// Where requests are sent.
    pub backends: Vec<WeightedBackend>,
    /// Timeouts of requests.
    pub timeouts: Timeouts,
    /// `None` if the rule says nothing of retries: the backend's policy decides, and without one
    /// only requests that certainly did not reach an application are retried.
    pub retry: Option<Retry>,
    /// If set, every request that matches the rule gets 500 with this reason.
    pub failure: Option<Arc<str>>,
}

/// Conditions that must all be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// `None` for any path.
    pub path: Option<PathMatch>,
    /// Conditions on headers.
    pub headers: Vec<HeaderMatch>,
    /// Conditions on query parameters.
    pub query: Vec<QueryMatch>,
    /// `None` for any method.
    pub method: Option<Method>,
    /// A condition was invalid and is left out. Such a match is tried after all others, and its
    /// requests get 500.
    pub invalid: bool,
}

/// A condition on the path. gRPC methods are paths as well: `/package.Service/Method`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Exactly this path.
    Exact(String),
    /// By whole path elements: `/a` matches `/a` and `/a/b`, not `/ab`. A trailing slash has no
    /// meaning.
    Prefix(String),
    /// The whole path matches the regular expression.
    Regex(Pattern),
    /// This gRPC method of any service.
    GrpcMethod(String),
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Name of the header.
    pub name: HeaderName,
    /// Condition on its value.
    pub value: ValueMatch,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Name of the parameter.
    pub name: String,
    /// Condition on its value.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(String),
    /// The whole value matches the regular expression.
    Regex(Pattern),
}

impl ValueMatch {
    /// Returns true if the value meets the condition.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

/// A change to a request or its response by a rule or by one of its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderEdit),
    /// Changes response headers.
    ResponseHeaders(HeaderEdit),
    /// Responds with a redirect.
    Redirect(Redirect),
    /// Changes host or path of the request.
    Rewrite(Rewrite),
    /// Sends a copy of the request to another backend.
    Mirror(Mirror),
    /// Applies a CORS policy.
    Cors(Cors),
    /// Lets requests pass that an external server allows.
    ExternalAuth(Arc<ExternalAuth>),
    /// Delays requests, or answers them in place of the application.
    Fault(Arc<FaultInjection>),
}

/// A change to headers, applied in the order set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Headers to set, replacing existing values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers to add to existing values.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Headers to remove.
    pub remove: Vec<HeaderName>,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None` keeps the scheme of the request.
    pub scheme: Option<Arc<str>>,
    /// `None` keeps the host of the request.
    pub host: Option<Arc<str>>,
    /// `None` for the port that the specification defines: the well-known port of the scheme, else
    /// the port of the request.
    pub port: Option<u16>,
    /// `None` keeps the path of the request.
    pub path: Option<PathEdit>,
    /// Status code of the response.
    pub code: StatusCode,
}

/// A rewrite of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// `None` keeps the host.
    pub host: Option<HeaderValue>,
    /// `None` keeps the path.
    pub path: Option<PathEdit>,
}

/// A change of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// Replaces the whole path.
    Full(String),
    /// Replaces the prefix that was matched.
    Prefix(String),
}

/// Sends a copy of a share of the requests to a Service port and discards the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies are sent.
    pub to: ServicePort,
    /// The share of the requests.
    pub fraction: Fraction,
}

/// When a request is retried. Connection errors and timeouts of an attempt are retried as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Status codes to retry, whatever the method of the request.
    pub codes: Vec<StatusCode>,
    /// Number of retries, at most [`Retry::MAX_ATTEMPTS`]; 0 if retries are turned off.
    pub attempts: u32,
    /// Minimum delay before a retry.
    pub backoff: Duration,
}

impl Retry {
    /// Larger numbers are reduced to this one.
    pub const MAX_ATTEMPTS: u32 = 10;
    /// Shorter delays are raised to this one.
    pub const LEAST_BACKOFF: Duration = Duration::from_millis(25);

    /// Returns the retry of a rule that turns retries off.
    pub fn off() -> Self {
        Self {
            codes: Vec::new(),
            attempts: 0,
            backoff: Self::LEAST_BACKOFF,
        }
    }
}

/// The timeouts of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of the request to the last byte of the response.
    pub request: TimeLimit,
    /// One attempt with one backend.
    pub backend: TimeLimit,
}

/// A limit of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeLimit {
    /// Nothing is said: the backend's policy decides, and without one there is no limit.
    #[default]
    Unsaid,
    /// There is to be no limit.
    Unlimited,
    /// This long.
    Within(Duration),
}

impl TimeLimit {
    /// Returns the time; `None` without a limit.
    pub fn get(self) -> Option<Duration> {
        match self {
            Self::Unsaid | Self::Unlimited => None,
            Self::Within(limit) => Some(limit),
        }
    }

    /// Returns this one if it says something, else the other one.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Unsaid => other,
            said => said,
        }
    }

    /// Returns the shorter one of two that both apply.
    #[must_use]
    pub fn shorter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Within(one), Self::Within(other)) => Self::Within(one.min(other)),
            (Self::Within(limit), _) | (_, Self::Within(limit)) => Self::Within(limit),
            (said, other) => said.or(other),
        }
    }
}

/// Zero is no limit.
impl From<Duration> for TimeLimit {
    fn from(limit: Duration) -> Self {
        match limit.is_zero() {
            true => Self::Unlimited,
            false => Self::Within(limit),
        }
    }
}

impl From<Option<Duration>> for TimeLimit {
    fn from(limit: Option<Duration>) -> Self {
        limit.map_or(Self::Unsaid, Self::from)
    }
}

/// A backend with its share: `weight` divided by the sum of the weights of the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Weight; 0 for no requests.
    pub weight: u32,
    /// The backend.
    pub backend: Backend,
    /// Filters for requests to this backend.
    pub filters: Vec<Filter>,
}

/// The target of a backendRef.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The endpoints of a port of a Service or ServiceImport, without its own routes.
    Service(ServicePort),
    /// Cannot be used for this reason: its share of requests gets 500.
    Invalid(Arc<str>),
}
