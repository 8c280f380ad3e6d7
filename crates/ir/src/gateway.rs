//! The configuration of a gateway's proxy: its ports with listeners, certificates and routes, and
//! TLS to backends.
//!
//! Source: Gateway API v1.6.3, `GatewaySpec`, `Listener`, `BackendTLSPolicySpec`. Which routes
//! attach to a listener, and with which host names, is decided by `weft-translate`.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::connection::{ConnectionRule, TlsRule};
use crate::external_auth::ExternalAuth;
use crate::hosts::HostPattern;
use crate::names::{ServicePort, Transport};
use crate::route::Rule;

/// A Gateway, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl GatewayId {
    /// Returns the ID of a Gateway.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The settings of a gateway as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// The Gateway.
    pub id: GatewayId,
    /// Presented to backends that request a client certificate.
    pub client_certificate: Option<KeyPair>,
    /// Trust in proxies in front of the gateway.
    pub forwarded: ForwardedTrust,
    /// Whether every connection starts with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
    /// Whether the path of a request is normalized before it is matched and forwarded.
    pub normalize_paths: bool,
}

/// Which proxies in front of a gateway are trusted to report the address of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedTrust {
    /// Number of proxies in front of the gateway. With 0, the headers that clients send are
    /// overwritten.
    pub hops: u32,
    /// The header to which each of these proxies appends the address of its client.
    pub header: ForwardedHeader,
    /// Networks of the proxies that connect to the gateway; empty for any.
    pub proxies: Vec<IpNet>,
}

/// The header with the addresses of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// A certificate with its key, as in a Secret of type `kubernetes.io/tls`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// PEM, leaf first.
    pub chain: Arc<[u8]>,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: Arc<[u8]>,
}

impl fmt::Debug for KeyPair {
    /// Does not print the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({} bytes of chain)", self.chain.len())
    }
}

/// A port of a gateway, with all its listeners.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayPort {
    /// Number of the port.
    pub port: u16,
    /// Its listeners.
    pub serving: Serving,
    /// Backends of rules for requests whose own routes apply as well, each once: requests to the
    /// endpoints of one are sent by its rules instead.
    pub services: Vec<Arc<ServiceRules>>,
}

/// The own routes of a Service that opted in to having them applied by Gateways. Their backends are
/// endpoints: no further rules apply.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRules {
    /// The Service port.
    pub id: ServicePort,
    /// From HTTPRoutes or GRPCRoutes, in tie-breaking order. A request that matches none gets 404
    /// or UNIMPLEMENTED.
    pub rules: Vec<Arc<Rule>>,
}

impl GatewayPort {
    /// Returns the transport of the port.
    pub fn transport(&self) -> Transport {
        match self.serving {
            Serving::Http(_) | Serving::Tls(_) | Serving::Tcp(_) => Transport::Tcp,
            Serving::Udp(_) => Transport::Udp,
        }
    }
}

/// The listeners of a port, which are all of one family.
#[derive(Clone, Debug, PartialEq)]
pub enum Serving {
    /// Listeners of protocol HTTP, distinguished by the host of the request.
    Http(Vec<HttpListener>),
    /// Listeners of protocols HTTPS and TLS, distinguished by SNI.
    Tls(Vec<TlsListener>),
    /// A listener of protocol TCP.
    Tcp(StreamListener),
    /// A listener of protocol UDP.
    Udp(StreamListener),
}

/// A listener of protocol HTTP. Requests are handled by the listener whose host name matches best,
/// and only by its routes.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// The listener's name, or `namespace/listenerset/name`, for metrics and logs.
    pub name: Arc<str>,
    /// `None` for any host.
    pub hostname: Option<HostPattern>,
    /// Servers that must allow a request before it is matched, in order.
    pub external_auth: Vec<Arc<ExternalAuth>>,
    /// Virtual hosts.
    pub hosts: Vec<VirtualHost>,
}

/// The rules for a host, in tie-breaking order. A listener has at most one virtual host for each
/// host.
///
/// A request is matched against the rules of every virtual host whose host matches, the most
/// specific first.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// `None` for any host.
    pub host: Option<HostPattern>,
    /// From HTTPRoutes or GRPCRoutes. A rule that several hosts of a port have is the same `Arc` in
    /// each, so that it is encoded, sent and resolved once.
    pub rules: Vec<Arc<Rule>>,
}

/// A listener of protocol HTTPS or TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsListener {
    /// As in [`HttpListener::name`].
    pub name: Arc<str>,
    /// `None` for any SNI, or none.
    pub hostname: Option<HostPattern>,
    /// What is served within TLS.
    pub serving: TlsServing,
}

/// What a listener of protocol HTTPS or TLS serves.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsServing {
    /// Protocol HTTPS.
    Http {
        /// How TLS is terminated.
        tls: ServerTls,
        /// As in [`HttpListener::external_auth`].
        external_auth: Vec<Arc<ExternalAuth>>,
        /// Virtual hosts.
        hosts: Vec<VirtualHost>,
    },
    /// Protocol TLS, mode Terminate: the decrypted bytes are forwarded.
    Terminate {
        /// How TLS is terminated.
        tls: ServerTls,
        /// Where connections are sent.
        rules: Vec<TlsRule>,
    },
    /// Protocol TLS, mode Passthrough.
    Passthrough {
        /// Where connections are sent.
        rules: Vec<TlsRule>,
    },
}

/// How TLS is terminated.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    /// At least one. The first one that fits the client's SNI and signature schemes is presented,
    /// else the first.
    pub certificates: Vec<KeyPair>,
    /// `None` if clients are not asked for a certificate.
    pub clients: Option<ClientValidation>,
}

/// How client certificates are validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// PEM with any number of certificates. If there are none, every connection is rejected, unless
    /// `insecure_fallback` is set.
    pub roots: Arc<[u8]>,
    /// Whether clients without a valid certificate are accepted (`AllowInsecureFallback`).
    pub insecure_fallback: bool,
}

/// A listener whose connections or datagrams cannot be distinguished.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamListener {
    /// As in [`HttpListener::name`].
    pub name: Arc<str>,
    /// `None` if no route is attached: every connection is closed.
    pub rule: Option<ConnectionRule>,
}

/// How a gateway uses TLS to the endpoints of a Service (BackendTLSPolicy).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// The SNI that is sent. Without `alternative_names`, the certificate must be valid for it.
    pub hostname: Arc<str>,
    /// If not empty, the certificate must contain one of these names instead of `hostname`.
    pub alternative_names: Vec<AlternativeName>,
    /// The roots that the certificate is verified against.
    pub roots: BackendRoots,
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AlternativeName {
    /// A DNS name, which can begin with `*.`.
    Dns(Arc<str>),
    /// A URI.
    Uri(Arc<str>),
}

/// The roots for the certificates of backends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendRoots {
    /// The roots that browsers trust.
    System,
    /// PEM.
    Pem(Arc<[u8]>),
}
