//! A mesh, ready for the wire: what several streams ask for is encoded once.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_api::encode::{self, RouteDigests};
use weft_api::proto;
use weft_ir::{
    EndpointSet, GatewayId, GatewayPort, ResourceKey, Service, ServicePort, Target, Workload,
};
use weft_translate::{GatewayView, Mesh};

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
    /// The endpoints of a Service port for clients of a node, if there is such a port.
    fn endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<proto::Resource>>;
    /// The node that a pod runs on; `None` when the pod is not (or no longer) known.
    fn node(&self, namespace: &str, pod: &str) -> Option<String>;
    /// What a pod's own proxy is told; `None` when the pod is not (or no longer) known.
    fn workload(&self, namespace: &str, pod: &str) -> Option<Arc<proto::Resource>>;
    /// What a pod is told as a Gateway's proxy; `None` when it is none, or its Gateway is not (or no longer) ours.
    fn gateway(&self, namespace: &str, pod: &str) -> Option<Arc<EncodedGateway>>;
    /// As [`Source::endpoints`], as gateways see them.
    fn gateway_endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<proto::Resource>>;
}

/// A [`Source`] over one mesh. What was encoded is kept for as long as the mesh is, and goes over to the next mesh where
/// that holds the same.
#[derive(Debug)]
pub struct Encoder {
    mesh: Mesh,
    /// By address and the Service seen there, which differs between client namespaces: its place in memory.
    destinations: Kept<(SocketAddr, usize), Service, EncodedDestination>,
    /// By the set's place in memory: clients of different nodes, and gateways, may see different ones of a port.
    endpoints: Kept<usize, EndpointSet, proto::Resource>,
    workloads: Kept<(String, String), Workload, proto::Resource>,
    gateways: Kept<GatewayId, GatewayView, EncodedGateway>,
}

/// Encodings by key, with what they were made from.
#[derive(Debug)]
struct Kept<K, T, E>(Mutex<Encodings<K, T, E>>);

type Encodings<K, T, E> = HashMap<K, (Arc<T>, Arc<E>)>;

impl<K, T, E> Default for Kept<K, T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T, E> Kept<K, T, E> {
    fn lock(&self) -> MutexGuard<'_, Encodings<K, T, E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The encoding of `from`, made when it was not asked for before.
    fn get(&self, key: &K, from: &Arc<T>, encode: impl FnOnce() -> E) -> Arc<E> {
        let mut known = self.lock();
        if let Some((of, encoded)) = known.get(key)
            && Arc::ptr_eq(of, from)
        {
            return Arc::clone(encoded);
        }
        let encoded = Arc::new(encode());
        known.insert(key.clone(), (Arc::clone(from), Arc::clone(&encoded)));
        encoded
    }

    /// Those of what is still there.
    fn still(&self, is_there: impl Fn(&K, &Arc<T>) -> bool) -> Self {
        let known = self.lock();
        let still = known.iter().filter(|(key, (of, _))| is_there(key, of));
        let still = still.map(|(key, entry)| (key.clone(), entry.clone()));
        Self(Mutex::new(still.collect()))
    }
}

fn is<T>(one: Option<Arc<T>>, other: &Arc<T>) -> bool {
    one.is_some_and(|one| Arc::ptr_eq(&one, other))
}

impl Encoder {
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            destinations: Kept::default(),
            endpoints: Kept::default(),
            workloads: Kept::default(),
            gateways: Kept::default(),
        }
    }

    /// Of the mesh that comes after this one's.
    pub fn next(&self, mesh: Mesh) -> Self {
        Self {
            destinations: self
                .destinations
                .still(|(address, _), service| mesh.shows(*address, service)),
            endpoints: self.endpoints.still(|_, set| {
                let mut sets = mesh.sets(&set.id);
                sets.any(|other| Arc::ptr_eq(other, set))
            }),
            workloads: self
                .workloads
                .still(|(namespace, pod), of| is(mesh.workload(namespace, pod), of)),
            gateways: self.gateways.still(|id, view| is(mesh.gateway(id), view)),
            mesh,
        }
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Of each set of a Service port, whoever sees it.
    pub fn versions(&self, id: &ServicePort) -> impl Iterator<Item = u64> {
        self.mesh.sets(id).map(|set| self.set(set).version)
    }

    fn set(&self, set: &Arc<EndpointSet>) -> Arc<proto::Resource> {
        let place = Arc::as_ptr(set).addr();
        self.endpoints.get(&place, set, || encode::endpoints(set))
    }
}

impl Source for Encoder {
    fn destination(&self, address: SocketAddr, namespace: &str) -> Arc<EncodedDestination> {
        let destination = self.mesh.destination(address, namespace);
        let encode = || EncodedDestination {
            resource: encode::destination(&destination),
            references: Mesh::referenced(&destination),
        };
        let Target::Service(service) = &destination.target else {
            return Arc::new(encode());
        };
        let key = (destination.address, Arc::as_ptr(service).addr());
        self.destinations.get(&key, service, encode)
    }

    fn endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<proto::Resource>> {
        Some(self.set(&self.mesh.endpoints(id, node)?))
    }

    fn node(&self, namespace: &str, pod: &str) -> Option<String> {
        self.mesh.node(namespace, pod).map(str::to_owned)
    }

    fn workload(&self, namespace: &str, pod: &str) -> Option<Arc<proto::Resource>> {
        let workload = self.mesh.workload(namespace, pod)?;
        let key = (namespace.to_owned(), pod.to_owned());
        let encode = || encode::workload(&workload);
        Some(self.workloads.get(&key, &workload, encode))
    }

    fn gateway(&self, namespace: &str, pod: &str) -> Option<Arc<EncodedGateway>> {
        let id = self.mesh.gateway_of(namespace, pod)?;
        let view = self.mesh.gateway(&id)?;
        Some(self.gateways.get(&id, &view, || encoded_gateway(&view)))
    }

    fn gateway_endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<proto::Resource>> {
        Some(self.set(&self.mesh.gateway_endpoints(id, node)?))
    }
}

fn encoded_gateway(view: &GatewayView) -> EncodedGateway {
    let key = |port: &GatewayPort| ResourceKey::Port(port.transport(), port.port);
    let ports = view.ports.iter();
    let routes = ports
        .clone()
        .map(|port| (key(port), Arc::new(encode::route_digests(port))));
    let ports = ports.map(|port| (key(port), encode::gateway_port(port)));
    let gateway = encode::gateway(&view.gateway);
    EncodedGateway {
        resources: std::iter::once((ResourceKey::Gateway, gateway))
            .chain(ports)
            .collect(),
        routes: routes.collect(),
        references: view.references(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use weft_translate::{Objects, Translator};

    use super::*;
    use crate::snapshot::test_settings;

    /// The Services `a` and `b`, the second of which has a route to `port`.
    fn objects(port: u16) -> Objects {
        let service = |(name, ip): (&str, &str)| {
            json!({
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
            })
        };
        let services = [("a", "10.96.0.1"), ("b", "10.96.0.2")].map(service);
        let route = json!({
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "b"}],
                "rules": [{"backendRefs": [{"name": "b", "port": port}]}],
            },
        });
        let services = services.into_iter().map(serde_json::from_value);
        Objects {
            services: services.map(|of| Arc::new(of.unwrap())).collect(),
            http_routes: vec![Arc::new(serde_json::from_value(route).unwrap())],
            ..Objects::default()
        }
    }

    #[test]
    fn what_the_next_mesh_says_again_is_not_encoded_again() {
        let mut translator = Translator::new(test_settings());
        let mut now = objects(80);
        let first = Encoder::new(translator.translate(&now).mesh);
        let asked = |encoder: &Encoder| {
            let destinations = ["10.96.0.1:80", "10.96.0.2:80"]
                .map(|address| encoder.destination(address.parse().unwrap(), "shop"));
            (
                destinations,
                encoder
                    .endpoints(&"shop/a:80".parse().unwrap(), "")
                    .unwrap(),
            )
        };
        let ([a, b], set) = asked(&first);
        now.http_routes = objects(81).http_routes;
        let second = first.next(translator.translate(&now).mesh);
        // What is gone, or is another by now, is not kept.
        assert_eq!(second.destinations.lock().len(), 1);
        let ([same, other], same_set) = asked(&second);
        assert!(Arc::ptr_eq(&a, &same) && Arc::ptr_eq(&set, &same_set));
        assert_ne!(b.resource.version, other.resource.version);
        now.services.clear();
        let last = second.next(translator.translate(&now).mesh);
        assert_eq!(last.destinations.lock().len(), 0);
        assert_eq!(last.endpoints.lock().len(), 0);
    }

    #[test]
    fn clients_of_different_nodes_see_their_own_endpoints_of_a_local_service() {
        let mut now = objects(80);
        let service = json!({
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {
                "clusterIP": "10.96.0.1", "internalTrafficPolicy": "Local", "ports": [{"port": 80}],
            },
        });
        let slice = json!({
            "metadata": {
                "name": "a-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "a"},
            },
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "node1"}],
        });
        now.services[0] = Arc::new(serde_json::from_value(service).unwrap());
        now.endpoint_slices = vec![Arc::new(serde_json::from_value(slice).unwrap())];
        let mut translator = Translator::new(test_settings());
        let encoder = Encoder::new(translator.translate(&now).mesh);
        let id = "shop/a:80".parse().unwrap();
        let on = |node: &str| encoder.endpoints(&id, node).unwrap();
        let versions: Vec<u64> = encoder.versions(&id).collect();
        assert_eq!(versions, [on("node1").version, on("node2").version]);
        assert_ne!(versions[0], versions[1]);
        assert!(Arc::ptr_eq(&on("node2"), &on("node3")));
        // The next mesh says it again.
        let next = encoder.next(translator.translate(&now).mesh);
        let again = next.endpoints(&id, "node1").unwrap();
        assert!(Arc::ptr_eq(&again, &on("node1")));
    }
}
