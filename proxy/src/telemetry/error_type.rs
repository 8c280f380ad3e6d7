//! Why a request failed, a connection was closed or a datagram was dropped: one closed list, whose
//! names are the label `error_type` of metrics, the field of the same name in logs, and the header
//! `weft-error-type`.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use serde::{Serialize, Serializer};

macro_rules! error_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The cause of a failure, without what differs from one occurrence to the next.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorType {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorType {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

error_types! {
    // Requests, by what the client did.
    /// The request cannot be parsed, or can be read in more than one way.
    BadRequest = "bad_request",
    HeadersTooLarge = "headers_too_large",
    /// `CONNECT`, or a transfer coding that is not undone here.
    Unsupported = "unsupported",
    /// A strict pod got plain text.
    PlaintextRefused = "plaintext_refused",
    /// A policy wants a token, and the request has none or a bad one.
    AuthenticationFailed = "authentication_failed",
    /// A policy denies it, or none allows it.
    AuthorizationDenied = "authorization_denied",
    /// An external server denies it.
    ExternalAuthDenied = "external_auth_denied",
    /// The body is longer than what a filter may hold.
    RequestBodyTooLarge = "request_body_too_large",
    /// The connection belongs to another listener (421).
    Misdirected = "misdirected",
    RequestBodyTimeout = "request_body_timeout",
    ClientDisconnected = "client_disconnected",
    /// The client takes no more of the response.
    ClientStalled = "client_stalled",

    // By what the configuration says.
    NoRoute = "no_route",
    NoListener = "no_listener",
    InvalidConfiguration = "invalid_configuration",
    DestinationGone = "destination_gone",
    NoEndpoints = "no_endpoints",
    /// A FaultFilter answers on purpose.
    Fault = "fault",
    RequestTimeout = "request_timeout",
    BackendTimeout = "backend_timeout",

    // By what the upstream did.
    ConnectFailed = "connect_failed",
    ConnectTimeout = "connect_timeout",
    UpstreamTls = "upstream_tls",
    /// The connection is there, and HTTP cannot be spoken on it.
    UpstreamProtocol = "upstream_protocol",
    /// The remote proxies could not reach their applications.
    UpstreamRefused = "upstream_refused",
    /// The upstream ended the connection or the stream before the end of the response.
    UpstreamReset = "upstream_reset",
    MalformedResponse = "malformed_response",
    /// No decision came from an external server.
    ExternalAuthFailed = "external_auth_failed",
    UnexpectedUpgrade = "unexpected_upgrade",
    /// The body ended because another attempt took its place.
    Superseded = "superseded",

    // By a limit of the proxy.
    ConnectionLimit = "connection_limit",
    RequestLimit = "request_limit",
    MemoryLimit = "memory_limit",
    /// Too many requests to one endpoint.
    EndpointRequestLimit = "endpoint_request_limit",
    /// By `limits` of a TrafficPolicy: requests of this client's proxy, connections of it, and
    /// requests to a pod.
    ClientRequestLimit = "client_request_limit",
    ClientConnectionLimit = "client_connection_limit",
    ServerRequestLimit = "server_request_limit",
    /// A retry was due, and its cluster may send none.
    RetryBudgetExhausted = "retry_budget_exhausted",
    SessionLimit = "session_limit",

    // Connections.
    /// The redirect rules did not bring the connection here.
    NotRedirected = "not_redirected",
    ProxyProtocol = "proxy_protocol",
    /// Too little came for the protocol to be known.
    DetectTimeout = "detect_timeout",
    HeaderTimeout = "header_timeout",
    NotHttp = "not_http",
    NotTls = "not_tls",
    /// The handshake with the client failed.
    TlsHandshake = "tls_handshake",
    /// The client's certificate has no identity of the mesh.
    PeerIdentity = "peer_identity",
    NoCommonProtocol = "no_common_protocol",
    /// The listener has no certificate that can be shown.
    NoCertificate = "no_certificate",
    /// The client resets the requests that it starts.
    ExcessiveResets = "excessive_resets",
    ControllerUnreachable = "controller_unreachable",
    UnknownDestination = "unknown_destination",
    ConnectionReset = "connection_reset",
    ConnectionTimeout = "connection_timeout",

    // Datagrams.
    /// ICMP says that nobody receives at the endpoint.
    EndpointUnreachable = "endpoint_unreachable",
    DatagramTooLarge = "datagram_too_large",
    SendBufferFull = "send_buffer_full",
    NoSocket = "no_socket",
    SendFailed = "send_failed",
    Draining = "draining",

    /// A fault of the proxy: the request panicked.
    Internal = "internal",
    /// What another proxy calls by a name that is not known here.
    Other = "other",
}

impl ErrorType {
    /// As another proxy names it.
    pub fn from_name(name: &[u8]) -> Self {
        let mut all = Self::ALL.iter().copied();
        all.find(|of| of.as_str().as_bytes() == name)
            .unwrap_or(Self::Other)
    }

    /// Of a connection that ended with this error.
    pub fn of_io(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::TimedOut => Self::ConnectionTimeout,
            _ => Self::ConnectionReset,
        }
    }
}

impl fmt::Display for ErrorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl EncodeLabelValue for ErrorType {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl Serialize for ErrorType {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn error_type_names_are_distinct_and_parse_back() {
        let names: HashSet<&str> = ErrorType::ALL.iter().map(|of| of.as_str()).collect();
        assert_eq!(names.len(), ErrorType::ALL.len());
        for of in ErrorType::ALL {
            let name = of.as_str();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert_eq!(ErrorType::from_name(name.as_bytes()), *of);
        }
        assert_eq!(ErrorType::from_name(b"no_idea"), ErrorType::Other);
    }
}
