//! Why connections are closed early.

use std::io;
use std::net::SocketAddr;

use crate::http::runtime::Runtime;
use crate::net::proxy_protocol;

/// Why a connection was closed early, if not by its peers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{words}")]
    Refused {
        /// The reason in one word, for the metric.
        reason: &'static str,
        words: String,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Connect(#[from] crate::upstream::ConnectError),
}

impl ConnectionError {
    pub(crate) fn refused(reason: &'static str, words: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            words: words.into(),
        }
    }

    /// Counts and logs the error.
    pub(super) fn report(&self, runtime: &Runtime, listener: &'static str, client: SocketAddr) {
        match self {
            Self::Refused { reason, words } => {
                runtime.metrics.protocol_error(listener, reason);
                tracing::info!(listener, %client, reason, "connection refused: {words}");
            }
            Self::Http(error) => {
                if error.is_parse() {
                    runtime.metrics.protocol_error(listener, "http");
                    tracing::info!(listener, %client, reason = "http", "request refused: {error}");
                    return;
                }
                if error.is_timeout() {
                    runtime.metrics.protocol_error(listener, "timeout");
                }
                tracing::debug!(listener, %client, %error, "connection closed");
            }
            Self::Connect(error) => {
                runtime.metrics.protocol_error(listener, "unreachable");
                tracing::info!(listener, %client, "connection closed: {error}");
            }
            Self::Io(error) => tracing::debug!(listener, %client, %error, "connection closed"),
        }
    }
}

impl From<proxy_protocol::ReadError> for ConnectionError {
    /// Refused, and so counted, unless the header is not at fault.
    fn from(error: proxy_protocol::ReadError) -> Self {
        match error {
            proxy_protocol::ReadError::Io(error) => Self::Io(error),
            error => Self::refused("proxy_protocol", error.to_string()),
        }
    }
}
