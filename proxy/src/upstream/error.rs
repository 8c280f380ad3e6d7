//! Why a request got no response from an endpoint of its cluster.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ConnectError;
use crate::limits::AtLimit;
use crate::telemetry::error_type::ErrorType;

/// No endpoint answered the request.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request cannot be written in the endpoint's version of HTTP.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    #[error("{0} has no ready endpoints")]
    NoEndpoints(Arc<str>),
    #[error("no endpoint of {cluster} could be reached: {last}")]
    Unreachable {
        cluster: Arc<str>,
        last: ConnectError,
    },
    /// The proxies of all endpoints that were tried say that their application did not get the
    /// request.
    #[error("every endpoint of {0} that was tried turned the request away")]
    Refused(Arc<str>),
    #[error("overloaded: too many requests are under way to the endpoint")]
    Overloaded,
    /// By the limits of this proxy.
    #[error(transparent)]
    Limited(AtLimit),
    /// By the limits of all endpoints that were tried.
    #[error("every endpoint of {0} that was tried has as many requests as limits.server allows")]
    ServersLimited(Arc<str>),
    /// A retry is due, and the cluster may send none.
    #[error("the retry budget of {0} is exhausted")]
    RetryBudget(Arc<str>),
    /// The connection ended, or its stream was reset, before the head of a response.
    #[error("the endpoint {endpoint} broke off: {cause}")]
    Broken { endpoint: SocketAddr, cause: String },
    /// The client sent nothing more of the body for too long.
    #[error("the request's body did not go on")]
    BodyIdle,
}

impl SendError {
    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::BadRequest(_) => ErrorType::BadRequest,
            Self::NoEndpoints(_) => ErrorType::NoEndpoints,
            Self::Unreachable { last, .. } => last.error_type(),
            Self::Refused(_) => ErrorType::UpstreamRefused,
            Self::Overloaded => ErrorType::EndpointRequestLimit,
            Self::Limited(at) => at.error_type(),
            Self::ServersLimited(_) => ErrorType::ServerRequestLimit,
            Self::RetryBudget(_) => ErrorType::RetryBudgetExhausted,
            Self::Broken { .. } => ErrorType::UpstreamReset,
            Self::BodyIdle => ErrorType::RequestBodyTimeout,
        }
    }

    /// Returns true if no application has seen the request: it may be sent again whatever its
    /// method. Not if this proxy itself has too many requests under way, which more would not mend.
    pub fn never_reached_app(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Refused(_)
                | Self::ServersLimited(_)
                | Self::Overloaded
        )
    }
}
