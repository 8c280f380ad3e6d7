//! A mesh, ready for the wire: what several streams ask for is encoded once.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use weft_api::{encode, proto};
use weft_ir::{ServicePort, Target};
use weft_translate::Mesh;

/// A destination and the endpoint sets that it refers to.
#[derive(Clone, Debug)]
pub struct EncodedDestination {
    pub resource: proto::Resource,
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
}

/// A [`Source`] over one mesh. What was encoded is kept for as long as the mesh is.
#[derive(Debug)]
pub struct Encoder {
    mesh: Mesh,
    /// By address and the Service seen there, which differs between client namespaces: its place in memory, where
    /// `mesh` holds it.
    destinations: Mutex<HashMap<(SocketAddr, usize), Arc<EncodedDestination>>>,
    endpoints: Mutex<HashMap<ServicePort, Arc<proto::Resource>>>,
}

impl Encoder {
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            destinations: Mutex::default(),
            endpoints: Mutex::default(),
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
        let set = self.mesh.endpoints(id)?;
        let mut known = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(resource) = known.get(id) {
            return Some(Arc::clone(resource));
        }
        let resource = Arc::new(encode::endpoints(&set));
        known.insert(id.clone(), Arc::clone(&resource));
        Some(resource)
    }

    fn workload(&self, namespace: &str, pod: &str) -> Option<proto::Resource> {
        let workload = self.mesh.workload(namespace, pod)?;
        Some(encode::workload(&workload))
    }
}
