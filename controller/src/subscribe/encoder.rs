//! A mesh, ready for the wire: what several streams ask for is encoded once.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use weft_api::encode::{self, RouteDigests};
use weft_api::proto;
use weft_ir::{EndpointSet, GatewayId, GatewayPort, ResourceKey, ServicePort, Target};
use weft_translate::Mesh;

/// A destination and the endpoint sets that it refers to.
#[derive(Clone, Debug)]
pub struct EncodedDestination {
    pub resource: proto::Resource,
    pub references: BTreeSet<ServicePort>,
}

/// What all proxies of a Gateway are told, and the endpoint sets that it refers to.
#[derive(Clone, Debug, Default)]
pub struct EncodedGateway {
    /// `gateway`, and a port each.
    pub resources: Vec<(ResourceKey, proto::Resource)>,
    /// What each port says of routes.
    pub routes: HashMap<ResourceKey, Arc<RouteDigests>>,
    pub references: BTreeSet<ServicePort>,
}

/// What a session is served from.
pub trait Source {
    /// What is at an address for clients of a namespace; there is always an answer.
    fn destination(&self, address: SocketAddr, namespace: &str) -> Arc<EncodedDestination>;
    /// The endpoints of a Service port, if there is one.
    fn endpoints(&self, id: &ServicePort) -> Option<Arc<proto::Resource>>;
    /// What a pod's own proxy is told; `None` when the pod is not (or no longer) known.
    fn workload(&self, namespace: &str, pod: &str) -> Option<proto::Resource>;
    /// What a pod is told as a Gateway's proxy; `None` when it is none, or its Gateway is not (or no longer) ours.
    fn gateway(&self, namespace: &str, pod: &str) -> Option<Arc<EncodedGateway>>;
    /// As [`Source::endpoints`], as gateways see them.
    fn gateway_endpoints(&self, id: &ServicePort) -> Option<Arc<proto::Resource>>;
}

/// A [`Source`] over one mesh. What was encoded is kept for as long as the mesh is.
#[derive(Debug)]
pub struct Encoder {
    mesh: Mesh,
    /// By address and the Service seen there, which differs between client namespaces: its place in memory, where
    /// `mesh` holds it.
    destinations: Mutex<HashMap<(SocketAddr, usize), Arc<EncodedDestination>>>,
    endpoints: Sets,
    gateways: Mutex<HashMap<GatewayId, Arc<EncodedGateway>>>,
    gateway_endpoints: Sets,
}

type Sets = Mutex<HashMap<ServicePort, Arc<proto::Resource>>>;

/// The encoded set, made when it was not asked for before.
fn encoded(
    known: &Sets,
    id: &ServicePort,
    set: Option<Arc<EndpointSet>>,
) -> Option<Arc<proto::Resource>> {
    let set = set?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(resource) = known.get(id) {
        return Some(Arc::clone(resource));
    }
    let resource = Arc::new(encode::endpoints(&set));
    known.insert(id.clone(), Arc::clone(&resource));
    Some(resource)
}

impl Encoder {
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            destinations: Mutex::default(),
            endpoints: Mutex::default(),
            gateways: Mutex::default(),
            gateway_endpoints: Mutex::default(),
        }
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}

impl Source for Encoder {
    fn destination(&self, address: SocketAddr, namespace: &str) -> Arc<EncodedDestination> {
        let destination = self.mesh.destination(address, namespace);
        let encode = || {
            Arc::new(EncodedDestination {
                resource: encode::destination(&destination),
                references: Mesh::referenced(&destination),
            })
        };
        let Target::Service(service) = &destination.target else {
            return encode();
        };
        let key = (destination.address, Arc::as_ptr(service).addr());
        let mut known = self
            .destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(key).or_insert_with(encode))
    }

    fn endpoints(&self, id: &ServicePort) -> Option<Arc<proto::Resource>> {
        encoded(&self.endpoints, id, self.mesh.endpoints(id))
    }

    fn workload(&self, namespace: &str, pod: &str) -> Option<proto::Resource> {
        let workload = self.mesh.workload(namespace, pod)?;
        Some(encode::workload(&workload))
    }

    fn gateway(&self, namespace: &str, pod: &str) -> Option<Arc<EncodedGateway>> {
        let id = self.mesh.gateway_of(namespace, pod)?;
        let view = self.mesh.gateway(&id)?;
        let encode = || {
            let key = |port: &GatewayPort| ResourceKey::Port(port.transport(), port.port);
            let ports = view.ports.iter();
            let routes = ports
                .clone()
                .map(|port| (key(port), Arc::new(encode::route_digests(port))));
            let ports = ports.map(|port| (key(port), encode::gateway_port(port)));
            let gateway = encode::gateway(&view.gateway);
            Arc::new(EncodedGateway {
                resources: std::iter::once((ResourceKey::Gateway, gateway))
                    .chain(ports)
                    .collect(),
                routes: routes.collect(),
                references: view.references(),
            })
        };
        let mut known = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(known.entry(id).or_insert_with(encode)))
    }

    fn gateway_endpoints(&self, id: &ServicePort) -> Option<Arc<proto::Resource>> {
        let set = self.mesh.gateway_endpoints(id);
        encoded(&self.gateway_endpoints, id, set)
    }
}
