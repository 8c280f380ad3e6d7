//! What a gateway's proxy is told: the ports that it listens on, with listeners, certificates and routes, and how it
//! speaks to backends that want TLS.
//!
//! Source: Gateway API v1.6.3, `GatewaySpec`, `Listener`, `BackendTLSPolicySpec`. Which routes attach, and which host
//! names they have in common with a listener, is decided by the translator.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::connection::{ConnectionRule, TlsRule};
use crate::hosts::HostPattern;
use crate::names::{ServicePort, Transport};
use crate::route::Rule;

/// A Gateway, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl GatewayId {
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

/// What holds for all of a gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub id: GatewayId,
    /// Shown to backends that ask for a certificate over TLS.
    pub client_certificate: Option<KeyPair>,
    pub forwarded: ForwardedTrust,
    /// Whether every connection begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
    /// Whether the path of a request is normalised before it is matched and forwarded.
    pub normalize_paths: bool,
}

/// Which proxies in front of a gateway are believed in what they say of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedTrust {
    /// The number of proxies in front. 0: what clients send is overwritten.
    pub hops: u32,
    /// The header to which each of these proxies appends the address of its own client.
    pub header: ForwardedHeader,
    /// The addresses of the proxy that connects to the gateway; empty: any address.
    pub proxies: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
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
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({} bytes of chain)", self.chain.len())
    }
}

/// One port that a gateway listens on, with all its listeners.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayPort {
    pub port: u16,
    pub serving: Serving,
    /// Backends of rules for requests whose own routes are applied as well, each once: where a request would go to the
    /// endpoints of one, its rules say where.
    pub services: Vec<Arc<ServiceRules>>,
}

/// The routes of a Service that asked for them to be applied by Gateways, too. Its backends are endpoints: no rules are
/// applied a third time.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRules {
    pub id: ServicePort,
    /// Of HTTPRoutes or of GRPCRoutes, in the order that decides ties. A request that none takes is answered with 404 or
    /// UNIMPLEMENTED.
    pub rules: Vec<Arc<Rule>>,
}

impl GatewayPort {
    pub fn transport(&self) -> Transport {
        match self.serving {
            Serving::Http(_) | Serving::Tls(_) | Serving::Tcp(_) => Transport::Tcp,
            Serving::Udp(_) => Transport::Udp,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Serving {
    /// Listeners of protocol HTTP: told apart by the request's host.
    Http(Vec<HttpListener>),
    /// Listeners of protocol HTTPS and TLS: told apart by the server's name in the ClientHello.
    Tls(Vec<TlsListener>),
    Tcp(StreamListener),
    Udp(StreamListener),
}

/// Requests go to the listener whose host name fits the request's host best, and to its routes alone.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// The listener's name, or `namespace/listenerset/name`: for metrics and logs.
    pub name: Arc<str>,
    /// `None`: any host.
    pub hostname: Option<HostPattern>,
    pub hosts: Vec<VirtualHost>,
}

/// The rules for a host, in the order that decides ties. Every host is in one virtual host of a listener at most.
///
/// A request is tried against the rules of every virtual host that fits its host, the closest first.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// `None`: any host.
    pub host: Option<HostPattern>,
    /// Of HTTPRoutes or of GRPCRoutes. A rule that several hosts of a port have is the same `Arc` in each, so that it is
    /// encoded, sent and resolved once.
    pub rules: Vec<Arc<Rule>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TlsListener {
    pub name: Arc<str>,
    /// `None`: any server name, and none.
    pub hostname: Option<HostPattern>,
    pub serving: TlsServing,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TlsServing {
    /// Protocol HTTPS.
    Http {
        tls: ServerTls,
        hosts: Vec<VirtualHost>,
    },
    /// Protocol TLS, mode Terminate: the bytes within go on.
    Terminate { tls: ServerTls, rules: Vec<TlsRule> },
    /// Protocol TLS, mode Passthrough.
    Passthrough { rules: Vec<TlsRule> },
}

/// How TLS is terminated.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    /// At least one. The first whose names and kind of key suit the client is shown, else the first.
    pub certificates: Vec<KeyPair>,
    /// `None`: clients are not asked for a certificate.
    pub clients: Option<ClientValidation>,
}

/// How the certificates of clients are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// PEM, any number of certificates. None in it: every connection is refused, unless `insecure_fallback`.
    pub roots: Arc<[u8]>,
    /// A client without a certificate, or with one that does not hold, is let in (`AllowInsecureFallback`).
    pub insecure_fallback: bool,
}

/// A port of connections or datagrams that nothing tells apart.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamListener {
    pub name: Arc<str>,
    /// `None`: no route is attached, and every connection is closed.
    pub rule: Option<ConnectionRule>,
}

/// How a gateway speaks TLS to the endpoints of a Service (BackendTLSPolicy).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// The server name sent, and, without `alternative_names`, the one that the certificate must hold.
    pub hostname: Arc<str>,
    /// One of these must be in the certificate, where there are any; `hostname` need not be then.
    pub alternative_names: Vec<AlternativeName>,
    pub roots: BackendRoots,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AlternativeName {
    /// May begin with `*.`.
    Dns(Arc<str>),
    Uri(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendRoots {
    /// Those that browsers trust.
    System,
    /// PEM.
    Pem(Arc<[u8]>),
}
