//! The resources that a proxy holds: what is at an address, the endpoints of a Service, its own pod, and the roots.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::choice::{Choice, Place};
use crate::connection::{ConnectionRule, TlsRule};
use crate::gateway::BackendTls;
use crate::identity::Identity;
use crate::names::ServicePort;
use crate::route::{Rule, WeightedBackend};

/// What the proxy is told of its own pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub identity: Identity,
    pub mode: Mode,
    /// In order, each once.
    pub probes: Vec<Probe>,
    /// Where the pod runs.
    pub place: Place,
}

impl Workload {
    /// A pod without probes, at a place that is not known.
    pub fn new(identity: Identity, mode: Mode) -> Self {
        Self {
            identity,
            mode,
            probes: Vec::new(),
            place: Place::default(),
        }
    }
}

/// What the kubelet, which is outside the mesh, asks the pod's application: served in plain text in strict mode too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// The application's own.
    pub port: u16,
    pub asks: ProbeRequest,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeRequest {
    /// `GET` of this path, with its query, as it stands in a request.
    Get(String),
    /// `grpc.health.v1.Health/Check`.
    GrpcHealth,
}

/// The roots that peers' certificates are checked against: X.509 certificates, DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoots {
    /// The one under which certificates are signed now.
    pub signer: Vec<u8>,
    /// The others, trusted as well.
    pub further: Vec<Vec<u8>>,
}

/// Whether plain text is served to clients outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Permissive,
    Strict,
}

/// What a Service port says it speaks, by `appProtocol` or its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nothing said: the first bytes decide.
    #[default]
    Detect,
    Http1,
    /// Without TLS, by prior knowledge.
    Http2,
    Grpc,
    /// TLS of the application's own: passed through.
    Tls,
    /// Opaque bytes.
    Tcp,
}

/// What is at an address, for one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub address: SocketAddr,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Service(Arc<Service>),
    /// A pod addressed directly: encrypted where it has a proxy, never routed.
    Pod(Endpoint),
    /// No Service and no pod of the cluster: passed through.
    Unknown,
}

/// A Service port with the routes that are in force for one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub id: ServicePort,
    pub protocol: Protocol,
    pub routing: Routing,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Routing {
    /// No route is attached: every request and connection goes to these.
    Direct(Vec<WeightedBackend>),
    /// HTTPRoutes: a request that no rule takes is answered with 404.
    Http(Vec<Arc<Rule>>),
    /// GRPCRoutes: a request that no rule takes is answered with UNIMPLEMENTED.
    Grpc(Vec<Arc<Rule>>),
    /// TLSRoutes: a connection that no rule takes, or that is not of TLS, is closed.
    Tls(Vec<TlsRule>),
    /// The TCPRoute that is in force: every connection is one of bytes.
    Tcp(ConnectionRule),
}

/// The ready endpoints of a Service port.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSet {
    pub id: ServicePort,
    pub protocol: Protocol,
    pub endpoints: Vec<Endpoint>,
    /// For gateways: TLS to the application itself, within mutual TLS where the endpoint has a proxy.
    pub tls: Option<Arc<BackendTls>>,
    pub choice: Choice,
}

impl EndpointSet {
    /// Without TLS of the application's own; its Service does not say which endpoint a client is to be given.
    pub fn new(id: ServicePort, protocol: Protocol, endpoints: Vec<Endpoint>) -> Self {
        Self {
            id,
            protocol,
            endpoints,
            tls: None,
            choice: Choice::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The identity to expect over mutual TLS; `None`: the pod has no proxy and gets plain text.
    pub identity: Option<Identity>,
}
