//! The resources that a proxy holds: what is at an address, the endpoints of a Service, its own
//! pod, and the trusted roots.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::choice::{Choice, Locality};
use crate::connection::{ConnectionRule, TlsRule};
use crate::gateway::BackendTls;
use crate::identity::Identity;
use crate::names::ServicePort;
use crate::route::{Rule, WeightedBackend};
use crate::traffic::{RequestLimit, TrafficPolicy};

/// The configuration of the proxy's own pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Identity of the pod.
    pub identity: Identity,
    /// The mTLS mode of its ports, apart from those in `port_modes`.
    pub mode: Mode,
    /// The mTLS modes of single ports of the application.
    pub port_modes: BTreeMap<u16, Mode>,
    /// Sorted and without duplicates.
    pub probes: Vec<Probe>,
    /// Where the pod runs.
    pub locality: Locality,
    /// Addresses of the pod's node, sorted and without duplicates; empty if they are not known.
    pub host_ips: Vec<IpAddr>,
    /// How many requests the application gets at a time, by its port.
    pub limits: BTreeMap<u16, RequestLimit>,
}

impl Workload {
    /// Returns a workload without probes, on an unknown node.
    pub fn new(identity: Identity, mode: Mode) -> Self {
        Self {
            identity,
            mode,
            port_modes: BTreeMap::new(),
            probes: Vec::new(),
            locality: Locality::default(),
            host_ips: Vec::new(),
            limits: BTreeMap::new(),
        }
    }

    /// Returns the mTLS mode of a port.
    pub fn mode_at(&self, port: u16) -> Mode {
        self.port_modes.get(&port).copied().unwrap_or(self.mode)
    }
}

/// A request of the kubelet, which is outside the mesh: served in plain text in strict mode as
/// well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// A port of the application.
    pub port: u16,
    /// The request.
    pub asks: ProbeRequest,
}

/// The request of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeRequest {
    /// `GET` with this path and query, as they appear in the request.
    Get(String),
    /// `grpc.health.v1.Health/Check`.
    GrpcHealth,
}

/// The trusted roots for peer certificates: X.509 certificates in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoots {
    /// The root of the current issuer.
    pub signer: Vec<u8>,
    /// Other trusted roots.
    pub additional: Vec<Vec<u8>>,
}

/// Whether plain text from clients outside the mesh is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plain text is accepted.
    Permissive,
    /// Only mTLS is accepted.
    Strict,
}

/// The declared protocol of a Service port, by `appProtocol` or by the name of the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not declared: detected from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.1 without TLS.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// gRPC without TLS.
    Grpc,
    /// TLS of the application, which is passed through.
    Tls,
    /// Opaque TCP.
    Tcp,
}

/// What is at an address, for one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// The address.
    pub address: SocketAddr,
    /// What is there.
    pub target: Target,
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A Service port.
    Service(Arc<Service>),
    /// A pod that is addressed directly: encrypted if it has a proxy, and never routed.
    Pod(Endpoint),
    /// Neither a Service nor a pod of the cluster: passed through.
    Unknown,
}

/// A Service port with the routes that apply to one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The Service port.
    pub id: ServicePort,
    /// Its declared protocol.
    pub protocol: Protocol,
    /// Where its requests and connections are sent.
    pub routing: Routing,
}

/// Where the requests and connections of a Service port are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Routing {
    /// No route is attached: all requests and connections are sent to these backends.
    Direct(Vec<WeightedBackend>),
    /// HTTPRoutes: a request that matches no rule gets 404.
    Http(Vec<Arc<Rule>>),
    /// GRPCRoutes: a request that matches no rule gets UNIMPLEMENTED.
    Grpc(Vec<Arc<Rule>>),
    /// TLSRoutes: a connection that matches no rule, or that is not TLS, is closed.
    Tls(Vec<TlsRule>),
    /// The TCPRoute that applies: every connection is treated as opaque TCP.
    Tcp(ConnectionRule),
}

/// The ready endpoints of a Service port.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSet {
    /// The Service port.
    pub id: ServicePort,
    /// Its declared protocol.
    pub protocol: Protocol,
    /// The endpoints, by address.
    pub endpoints: Vec<Endpoint>,
    /// For gateways: TLS to the application itself, inside mTLS if the endpoint has a proxy.
    pub tls: Option<Arc<BackendTls>>,
    /// Constraints on the choice of an endpoint.
    pub choice: Choice,
    /// The effective TrafficPolicy; `None` without one.
    pub traffic: Option<Arc<TrafficPolicy>>,
}

impl EndpointSet {
    /// Returns a set without TLS to the application, without constraints on the choice of an
    /// endpoint, and without a policy.
    pub fn new(id: ServicePort, protocol: Protocol, endpoints: Vec<Endpoint>) -> Self {
        Self {
            id,
            protocol,
            endpoints,
            tls: None,
            choice: Choice::default(),
            traffic: None,
        }
    }
}

/// An endpoint of a Service, or a pod that is addressed directly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// The identity to expect with mTLS; `None` if the pod has no proxy and gets plain text.
    pub identity: Option<Identity>,
}
