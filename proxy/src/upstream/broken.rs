//! Why an endpoint gave no response to a request that may have reached it.

use std::error::Error;
use std::io::{self, ErrorKind};

use h2::Reason;

use super::http1;

/// An exchange that broke off before the head of the response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{}", describe(.0))]
    Http1(hyper::Error),
    #[error("{}", describe_http2(.0))]
    Http2(h2::Error),
    /// The endpoint answered no ping.
    #[error("http2 error: keep-alive timed out")]
    Silent,
}

impl Broken {
    /// Returns true if the connection had ended before anything was written.
    pub(super) fn is_stale(&self) -> bool {
        let cause = self.io().and_then(io::Error::get_ref);
        cause.is_some_and(|cause| cause.is::<http1::Stale>())
    }

    /// Returns true if the HTTP/2 peer says that it did not process the request: REFUSED_STREAM, or
    /// a stream beyond the last one of its GOAWAY (RFC 9113, 8.7).
    pub(super) fn is_unprocessed(&self) -> bool {
        let Self::Http2(error) = self else {
            return false;
        };
        let told_to_go =
            error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        self.is_refused() || told_to_go
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Http2(error) if error.reason() == Some(Reason::REFUSED_STREAM))
    }

    /// Returns true if the endpoint acknowledged nothing, or answered no ping, for too long.
    pub(super) fn is_timeout(&self) -> bool {
        let unreachable = [
            ErrorKind::TimedOut,
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
        ];
        let is_silent = match self {
            Self::Http1(error) => error.is_timeout(),
            Self::Http2(_) => false,
            Self::Silent => true,
        };
        let io = self.io();
        is_silent || io.is_some_and(|cause| unreachable.contains(&cause.kind()))
    }

    /// Returns true if the connection ended before any byte of the response.
    pub(super) fn is_cut_off(&self) -> bool {
        let is_ended = match self {
            Self::Http1(error) => {
                error.is_incomplete_message() || error.is_canceled() || error.is_closed()
            }
            Self::Http2(_) | Self::Silent => false,
        };
        is_ended || self.io().is_some()
    }

    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Http1(error) => error.source()?.downcast_ref(),
            Self::Http2(error) => error.get_io(),
            Self::Silent => None,
        }
    }
}

fn describe(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", without_page(&cause.to_string())),
        None => error.to_string(),
    }
}

fn describe_http2(error: &h2::Error) -> String {
    match error.get_io() {
        Some(cause) => format!("connection error: {}", without_page(&cause.to_string())),
        None => format!("http2 error: {error}"),
    }
}

/// rustls ends some of its messages with the address of a page.
fn without_page(cause: &str) -> &str {
    cause.split(": https://").next().unwrap_or_default()
}
