//! Why connections are closed early.

use std::io;
use std::net::SocketAddr;

use crate::http::runtime::Runtime;
use crate::http::serve::ServeError;
use crate::net::proxy_protocol;
use crate::telemetry::error_type::ErrorType;

/// Why a connection was closed early, if not by its peers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{words}")]
    Refused {
        error_type: ErrorType,
        words: String,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] ServeError),
    #[error(transparent)]
    Connect(#[from] crate::upstream::ConnectError),
}

impl ConnectionError {
    pub(crate) fn refused(error_type: ErrorType, words: impl Into<String>) -> Self {
        Self::Refused {
            error_type,
            words: words.into(),
        }
    }

    pub(crate) fn error_type(&self) -> ErrorType {
        match self {
            Self::Refused { error_type, .. } => *error_type,
            Self::Io(error) => ErrorType::of_io(error),
            Self::Http(error) if error.is_parse() => ErrorType::BadRequest,
            Self::Http(error) if error.is_timeout() => ErrorType::HeaderTimeout,
            Self::Http(_) => ErrorType::ConnectionReset,
            Self::Connect(error) => error.error_type(),
        }
    }

    /// Counts and logs.
    pub(super) fn report(&self, runtime: &Runtime, listener: &'static str, client: SocketAddr) {
        let error_type = self.error_type();
        match self {
            Self::Refused { words, .. } => {
                runtime.metrics.protocol_error(listener, error_type);
                tracing::info!(listener, %client, %error_type, "connection refused: {words}");
            }
            Self::Http(error) if error.is_parse() => {
                runtime.metrics.protocol_error(listener, error_type);
                tracing::info!(listener, %client, %error_type, "request refused: {error}");
            }
            Self::Http(error) => {
                if error.is_timeout() {
                    runtime.metrics.protocol_error(listener, error_type);
                }
                tracing::debug!(listener, %client, %error_type, %error, "connection closed");
            }
            Self::Connect(error) => {
                runtime.metrics.protocol_error(listener, error_type);
                tracing::info!(listener, %client, %error_type, "connection closed: {error}");
            }
            Self::Io(error) => {
                tracing::debug!(listener, %client, %error_type, %error, "connection closed");
            }
        }
    }
}

impl From<proxy_protocol::ReadError> for ConnectionError {
    /// Refused, and so counted, unless the header is not at fault.
    fn from(error: proxy_protocol::ReadError) -> Self {
        match error {
            proxy_protocol::ReadError::Io(error) => Self::Io(error),
            error => Self::refused(ErrorType::ProxyProtocol, error.to_string()),
        }
    }
}
