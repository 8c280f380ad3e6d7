//! Why a request ends without a response of the application, and the response that the client gets.
//!
//! The words go into the header `weft-error` and the log. Only `handle()` turns a [`Failure`] into
//! a response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::CatchUnwind;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use tonic::Code;
use weft_ir::FaultStatus;

use super::external_auth::AuthError;
use super::fault;
use super::response_body::{Response, ResponseBody};
use crate::authorization::Verdict;
use crate::body::BodyError;
pub use crate::grpc::is_grpc;
use crate::limits::AtLimit;
use crate::overload::Limit;
use crate::telemetry::error_type::ErrorType;
use crate::upstream::SendError;
use crate::wire::{ERROR, ERROR_TYPE, MAX_HEAD, MAX_REQUEST_FIELDS, REFUSED};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Catches a panic of one request, so that it costs no other request of its connection. State that
/// requests share is in atomics, and behind locks whose poisoning is ignored everywhere.
pub fn contain<F: Future>(request: F) -> CatchUnwind<AssertUnwindSafe<F>> {
    AssertUnwindSafe(request).catch_unwind()
}

/// A request ends here: with an answer that is no error, or with a failure.
pub enum ShortCircuit {
    Response(Box<Response>),
    Failure(Failure),
}

impl From<Failure> for ShortCircuit {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    #[error("the head of the request is over {} KiB or {MAX_REQUEST_FIELDS} fields", MAX_HEAD >> 10)]
    TooLarge,
    #[error("{0} is not proxied")]
    NotProxied(&'static str),
    #[error("plain text to {0}, which takes mutual TLS only")]
    PlainText(std::net::SocketAddr),
    #[error(
        "a probe from {0}, which is not the pod's node (proxy.probeSources, proxy.probeNetworks)"
    )]
    ProbeSource(std::net::IpAddr),
    #[error("{0}")]
    Denied(Verdict),
    #[error("no rule of the routes of {0} takes this request")]
    NoRoute(String),
    #[error("no listener of port {0} is for the host")]
    NoListener(u16),
    #[error("another listener is for the host, which needs a connection of its own")]
    Misdirected,
    #[error("{0}")]
    Misconfigured(Arc<str>),
    #[error("a condition of the rule does not compile")]
    BrokenMatch,
    #[error("the rule has no backends")]
    NoBackends,
    #[error("the filter's {0} is not valid for this request")]
    Rewrite(&'static str),
    #[error("the proxy failed on this request")]
    Panicked,
    #[error("nothing is at {0} any more")]
    Gone(std::net::SocketAddr),
    /// No endpoint answered.
    #[error(transparent)]
    Upstream(#[from] SendError),
    #[error("the answer of {endpoint} cannot be passed on: its {field} is malformed")]
    Malformed {
        endpoint: std::net::SocketAddr,
        field: &'static str,
    },
    #[error("{endpoint} changes the protocol of its connection, which nobody asked for")]
    UnexpectedUpgrade { endpoint: std::net::SocketAddr },
    #[error("overloaded: {0}")]
    Overloaded(Limit),
    /// By the limits of this pod.
    #[error(transparent)]
    Limited(AtLimit),
    #[error("its body is over {0} bytes, which an external server has to see")]
    BodyTooLong(usize),
    #[error("no decision from the authorization server {server}: {error}")]
    ExternalAuth { server: Arc<str>, error: AuthError },
    #[error("a fault that the FaultFilter {filter} injects")]
    Fault {
        filter: Arc<str>,
        status: FaultStatus,
    },
    #[error("no complete answer within the request timeout of {0:?}")]
    RequestTimeout(Duration),
    #[error("no answer of the backend within its timeout of {0:?}")]
    BackendTimeout(Duration),
}

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotProxied(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Denied(verdict) if verdict.token_error().is_some() => StatusCode::UNAUTHORIZED,
            Self::PlainText(_)
            | Self::ProbeSource(_)
            | Self::Denied(_)
            | Self::ExternalAuth { .. } => StatusCode::FORBIDDEN,
            Self::BodyTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoute(_) | Self::NoListener(_) => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Misconfigured(_)
            | Self::BrokenMatch
            | Self::NoBackends
            | Self::Rewrite(_)
            | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Upstream(error) => match error {
                SendError::BadRequest(_) => StatusCode::BAD_REQUEST,
                SendError::NoEndpoints(_)
                | SendError::Unreachable { .. }
                | SendError::Refused(_)
                | SendError::Limited(_)
                | SendError::ServersLimited(_)
                | SendError::Overloaded
                | SendError::RetryBudget(_) => StatusCode::SERVICE_UNAVAILABLE,
                SendError::Broken { .. } => StatusCode::BAD_GATEWAY,
                SendError::BodyIdle => StatusCode::REQUEST_TIMEOUT,
            },
            Self::Gone(_) | Self::Overloaded(_) | Self::Limited(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Malformed { .. } | Self::UnexpectedUpgrade { .. } => StatusCode::BAD_GATEWAY,
            Self::Fault { status, .. } => fault::status(*status),
            Self::RequestTimeout(_) | Self::BackendTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::BadRequest(_) => ErrorType::BadRequest,
            Self::TooLarge => ErrorType::HeadersTooLarge,
            Self::NotProxied(_) => ErrorType::Unsupported,
            Self::PlainText(_) | Self::ProbeSource(_) => ErrorType::PlaintextRefused,
            Self::Denied(verdict) if verdict.token_error().is_some() => {
                ErrorType::AuthenticationFailed
            }
            Self::Denied(_) => ErrorType::AuthorizationDenied,
            Self::BodyTooLong(_) => ErrorType::RequestBodyTooLarge,
            Self::ExternalAuth { .. } => ErrorType::ExternalAuthFailed,
            Self::NoRoute(_) => ErrorType::NoRoute,
            Self::NoListener(_) => ErrorType::NoListener,
            Self::Misdirected => ErrorType::Misdirected,
            Self::Misconfigured(_) | Self::BrokenMatch | Self::NoBackends | Self::Rewrite(_) => {
                ErrorType::InvalidConfiguration
            }
            Self::Gone(_) => ErrorType::DestinationGone,
            Self::Upstream(error) => error.error_type(),
            Self::Malformed { .. } => ErrorType::MalformedResponse,
            Self::UnexpectedUpgrade { .. } => ErrorType::UnexpectedUpgrade,
            Self::Overloaded(limit) => limit.error_type(),
            Self::Limited(at) => at.error_type(),
            Self::Fault { .. } => ErrorType::Fault,
            Self::RequestTimeout(_) => ErrorType::RequestTimeout,
            Self::BackendTimeout(_) => ErrorType::BackendTimeout,
            Self::Panicked => ErrorType::Internal,
        }
    }

    /// The status code of gRPC (`doc/statuscodes.md` of its specification).
    pub fn grpc_status(&self) -> Code {
        match self {
            Self::BadRequest(_)
            | Self::Misconfigured(_)
            | Self::BrokenMatch
            | Self::NoBackends
            | Self::Rewrite(_)
            | Self::Panicked => Code::Internal,
            Self::Denied(verdict) if verdict.token_error().is_some() => Code::Unauthenticated,
            Self::PlainText(_) | Self::ProbeSource(_) | Self::Denied(_) => Code::PermissionDenied,
            Self::TooLarge | Self::BodyTooLong(_) => Code::ResourceExhausted,
            Self::NotProxied(_) | Self::NoRoute(_) | Self::NoListener(_) => Code::Unimplemented,
            Self::Upstream(error) => match error {
                SendError::BadRequest(_) => Code::Internal,
                SendError::NoEndpoints(_)
                | SendError::Unreachable { .. }
                | SendError::Refused(_)
                | SendError::Limited(_)
                | SendError::ServersLimited(_)
                | SendError::Overloaded
                | SendError::RetryBudget(_)
                | SendError::Broken { .. } => Code::Unavailable,
                SendError::BodyIdle => Code::DeadlineExceeded,
            },
            Self::Gone(_)
            | Self::Misdirected
            | Self::Overloaded(_)
            | Self::Limited(_)
            | Self::ExternalAuth { .. }
            | Self::Malformed { .. }
            | Self::UnexpectedUpgrade { .. } => Code::Unavailable,
            Self::Fault { status, .. } => fault::code(*status),
            Self::RequestTimeout(_) | Self::BackendTimeout(_) => Code::DeadlineExceeded,
        }
    }

    /// The application never saw the request.
    pub fn never_reached_app(&self) -> bool {
        match self {
            Self::Upstream(error) => error.never_reached_app(),
            failure => matches!(failure, Self::Overloaded(_) | Self::Limited(_)),
        }
    }

    /// The response to a request; trailers-only where it spoke gRPC. `to_proxy`: the client is a
    /// proxy of the mesh.
    pub fn response(&self, grpc: bool, version: Version, to_proxy: bool) -> Response {
        let words = header_text(&self.to_string());
        let mut response = Response::new(ResponseBody::empty());
        *response.version_mut() = version;
        let headers = response.headers_mut();
        if grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, i32::from(self.grpc_status()).into());
            headers.insert(GRPC_MESSAGE, words.clone());
        }
        headers.insert(ERROR, words);
        let error_type = HeaderValue::from_static(self.error_type().as_str());
        headers.insert(ERROR_TYPE, error_type);
        if to_proxy && self.never_reached_app() {
            headers.insert(REFUSED, HeaderValue::from_static("1"));
        }
        if !grpc {
            *response.status_mut() = self.status();
        }
        response
    }
}

/// Why the body of a response ended early.
pub fn body_error_type(error: &BodyError) -> ErrorType {
    match error {
        BodyError::Http1(_) | BodyError::Http2(_) => ErrorType::UpstreamReset,
        BodyError::Timeout => ErrorType::RequestTimeout,
        BodyError::Idle => ErrorType::RequestBodyTimeout,
        BodyError::ClientStalled => ErrorType::ClientStalled,
        BodyError::Denied => ErrorType::AuthorizationDenied,
        BodyError::Superseded | BodyError::TeeLagged => ErrorType::Superseded,
    }
}

/// Ends a gRPC answer that broke off. A reset by the application becomes the
/// status that `PROTOCOL-HTTP2.md` of gRPC's specification maps it to.
pub fn grpc_trailers(error: &BodyError) -> HeaderMap {
    let status = match error {
        BodyError::Timeout | BodyError::Idle | BodyError::ClientStalled => Code::DeadlineExceeded,
        BodyError::Http2(error) => match error.reason().filter(|_| error.is_reset()) {
            Some(h2::Reason::CANCEL) => Code::Cancelled,
            Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
            Some(h2::Reason::REFUSED_STREAM) | None => Code::Unavailable,
            Some(_) => Code::Internal,
        },
        BodyError::Denied => Code::PermissionDenied,
        BodyError::Http1(_) | BodyError::Superseded | BodyError::TeeLagged => Code::Unavailable,
    };
    let mut trailers = HeaderMap::with_capacity(2);
    let words = header_text(&format!("the answer broke off: {error}"));
    trailers.insert(GRPC_STATUS, i32::from(status).into());
    trailers.insert(GRPC_MESSAGE, words);
    trailers
}

/// Takes the words that a proxy put into a response out of it, for a client outside the mesh: they
/// name pods, addresses and Services. Log and metrics keep them. What an application said itself
/// stays.
pub fn redact(response: &mut Response) {
    redact_body(response);
    let headers = response.headers_mut();
    headers.remove(ERROR_TYPE);
    if headers.remove(ERROR).is_some() && headers.contains_key(GRPC_MESSAGE) {
        headers.insert(
            GRPC_MESSAGE,
            HeaderValue::from_static("failed at the gateway"),
        );
    }
}

/// Of all responses of proxies, those of denied requests alone have a body.
fn redact_body(response: &mut Response) {
    let denied = [
        ErrorType::AuthorizationDenied.as_str(),
        ErrorType::AuthenticationFailed.as_str(),
    ];
    let error_type = response.headers().get(ERROR_TYPE);
    if error_type.is_some_and(|of| denied.iter().any(|denied| of == denied))
        && !is_grpc(response.headers())
    {
        response.headers_mut().remove(CONTENT_TYPE);
        response.headers_mut().remove(CONTENT_LENGTH);
        response.body_mut().discard();
    }
}

/// As a header value: printable ASCII, without `%`, so that gRPC needs no escapes.
fn header_text(words: &str) -> HeaderValue {
    let text: String = words
        .chars()
        .map(|c| match c {
            '%' => '?',
            ' '..='~' => c,
            _ => '?',
        })
        .collect();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("failed"))
}
