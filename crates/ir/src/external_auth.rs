//! Authorization of requests by an external server.
//!
//! Source: Gateway API v1.7.0, `HTTPExternalAuthFilter` (GEP-1494), on rules, backends and
//! listeners (GEP-5224).

use std::sync::Arc;

use http::HeaderName;

use crate::names::ServicePort;

/// Asks a server whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    /// The server. `Err`: it cannot be used for this reason, and every request gets 500.
    pub server: Result<ServicePort, Arc<str>>,
    /// What the server speaks.
    pub protocol: ExternalAuthProtocol,
    /// How much of the request's body the server gets; a longer body is refused. 0 for no body;
    /// at most [`ExternalAuth::MAX_BODY`].
    pub body_limit: u32,
}

impl ExternalAuth {
    /// Bodies are buffered for the server up to this size in bytes.
    pub const MAX_BODY: u32 = 64 << 10;
}

/// The protocol of an external server, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalAuthProtocol {
    /// The head of the request is sent as a request of its own; 200 lets it pass.
    Http(HttpAuth),
    /// Envoy's `envoy.service.auth.v3.Authorization`.
    Grpc {
        /// The headers of the request that the server gets.
        request_headers: HeaderSelection,
    },
}

/// How a request is presented to an HTTP server, and what is taken from its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAuth {
    /// Comes before the path of the request; empty for none. Without a slash at its end.
    pub path_prefix: String,
    /// The headers of the request that the server gets beside those that it always gets.
    pub request_headers: Vec<HeaderName>,
    /// The headers of the server's response that the request gets.
    pub response_headers: HeaderSelection,
}

/// Which headers are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSelection {
    /// All of them.
    All,
    /// Those with these names; at least one.
    Named(Vec<HeaderName>),
}

impl HeaderSelection {
    /// Returns the selection of these names; no names select all headers, by the specification.
    pub fn of(names: Vec<HeaderName>) -> Self {
        match names.is_empty() {
            true => Self::All,
            false => Self::Named(names),
        }
    }

    /// Returns the names; empty for all.
    pub fn names(&self) -> &[HeaderName] {
        match self {
            Self::All => &[],
            Self::Named(names) => names,
        }
    }

    /// Returns true if headers of this name are passed on.
    pub fn contains(&self, name: &HeaderName) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}
