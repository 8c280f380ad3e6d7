//! Encodes a mesh for the wire; a resource that several streams need is encoded once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_api::encode::{self, RouteDigests};
use weft_api::proto;
use weft_ir::{
    Authorizations, EndpointSet, GatewayId, GatewayPort, ResourceKey, Service, ServicePort, Target,
    Workload,
};
use weft_translate::{GatewayView, Mesh};

/// A destination and the endpoint sets that it refers to.
#[derive(Clone, Debug)]
pub struct EncodedDestination {
    pub resource: proto::Resource,
    pub references: BTreeSet<ServicePort>,
}

/// The resources of a Gateway's proxies, and the endpoint sets that they refer to.
#[derive(Clone, Debug, Default)]
pub struct EncodedGateway {
    /// `gateway`, and one resource for each port.
    pub resources: Vec<(ResourceKey, proto::Resource)>,
    /// The digests of the routes of each port.
    pub routes: HashMap<ResourceKey, Arc<RouteDigests>>,
    pub references: BTreeSet<ServicePort>,
}

/// The resources that a session is served from.
pub trait Source {
    /// Returns the destination at an address for clients of a namespace; every address has one.
    fn destination(&self, address: SocketAddr, namespace: &str) -> Arc<EncodedDestination>;
    /// Returns the endpoints of a Service port for clients on a node, if the port exists.
    fn endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<proto::Resource>>;
    /// Returns the node that a pod runs on; `None` if the pod is unknown.
    fn node(&self, namespace: &str, pod: &str) -> Option<String>;
    /// Returns the workload of a pod's proxy; `None` if the pod is unknown.
    fn workload(&self, namespace: &str, pod: &str) -> Option<Arc<proto::Resource>>;
    /// Returns the policies that a pod's proxy enforces; `None` if the pod is unknown, or if it has
    /// no proxy.
    fn authorization(&self, namespace: &str, pod: &str) -> Option<Arc<proto::Resource>>;
    /// Returns the resources of a pod that is a Gateway's proxy; `None` if it is not, or if its
    /// Gateway is not of this controller.
    fn gateway(&self, namespace: &str, pod: &str) -> Option<Arc<EncodedGateway>>;
    /// As [`Source::endpoints`], for the proxies of Gateways.
    fn gateway_endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<proto::Resource>>;
}

/// A [`Source`] over one mesh. Encodings are cached for as long as the mesh exists, and passed on
/// to the next mesh where that has the same resource.
#[derive(Debug)]
pub struct Encoder {
    mesh: Mesh,
    /// By address, and by the pointer of the Service, which differs between client namespaces.
    destinations: Cache<(SocketAddr, usize), Service, EncodedDestination>,
    /// By the pointer of the set: clients on different nodes, and gateways, may have different sets
    /// of one port.
    endpoints: Cache<usize, EndpointSet, proto::Resource>,
    workloads: Cache<(String, String), Workload, proto::Resource>,
    gateways: Cache<GatewayId, GatewayView, EncodedGateway>,
    /// By the pointer: many pods enforce the same.
    authorizations: Cache<usize, Authorizations, proto::Resource>,
}

/// Encodings by key, each with its source.
#[derive(Debug)]
struct Cache<K, T, E>(Mutex<Encodings<K, T, E>>);

type Encodings<K, T, E> = HashMap<K, (Arc<T>, Arc<E>)>;

impl<K, T, E> Default for Cache<K, T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T, E> Cache<K, T, E> {
    fn lock(&self) -> MutexGuard<'_, Encodings<K, T, E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the encoding of `from`, from the cache if it has one.
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

    /// Returns the entries whose source still exists.
    fn retained(&self, exists: impl Fn(&K, &Arc<T>) -> bool) -> Self {
        let known = self.lock();
        let retained = known.iter().filter(|(key, (of, _))| exists(key, of));
        let retained = retained.map(|(key, entry)| (key.clone(), entry.clone()));
        Self(Mutex::new(retained.collect()))
    }
}

fn is_same<T>(one: Option<Arc<T>>, other: &Arc<T>) -> bool {
    one.is_some_and(|one| Arc::ptr_eq(&one, other))
}

impl Encoder {
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            destinations: Cache::default(),
            endpoints: Cache::default(),
            workloads: Cache::default(),
            gateways: Cache::default(),
            authorizations: Cache::default(),
        }
    }

    /// Returns the encoder of the next mesh, with the encodings that are still valid.
    pub fn next(&self, mesh: Mesh) -> Self {
        let enforced: HashSet<usize> = mesh
            .all_authorizations()
            .map(|of| Arc::as_ptr(of).addr())
            .collect();
        Self {
            authorizations: self
                .authorizations
                .retained(|pointer, _| enforced.contains(pointer)),
            destinations: self
                .destinations
                .retained(|(address, _), service| mesh.shows(*address, service)),
            endpoints: self.endpoints.retained(|_, set| {
                let mut sets = mesh.sets(&set.id);
                sets.any(|other| Arc::ptr_eq(other, set))
            }),
            workloads: self
                .workloads
                .retained(|(namespace, pod), of| is_same(mesh.workload(namespace, pod), of)),
            gateways: self
                .gateways
                .retained(|id, view| is_same(mesh.gateway(id), view)),
            mesh,
        }
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Returns the versions of all endpoint sets of a Service port.
    pub fn versions(&self, id: &ServicePort) -> impl Iterator<Item = u64> {
        self.mesh.sets(id).map(|set| self.set(set).version)
    }

    fn set(&self, set: &Arc<EndpointSet>) -> Arc<proto::Resource> {
        let address = Arc::as_ptr(set).addr();
        self.endpoints.get(&address, set, || encode::endpoints(set))
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

    fn authorization(&self, namespace: &str, pod: &str) -> Option<Arc<proto::Resource>> {
        let of = self.mesh.authorizations(namespace, pod)?;
        let pointer = Arc::as_ptr(of).addr();
        let encode = || encode::authorizations(of);
        Some(self.authorizations.get(&pointer, of, encode))
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
    fn unchanged_resources_of_the_next_mesh_are_not_encoded_again() {
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
        // Encodings of deleted or changed resources are removed.
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
    fn policies_that_many_pods_enforce_are_encoded_once() {
        let pod = |name: &str| {
            let pod = json!({
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"containers": [{"name": "weft-proxy"}]},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let policy = |action: &str| {
            let policy = json!({
                "metadata": {"name": "all", "namespace": "shop"},
                "spec": {"targetRefs": [{"kind": "Pod", "selector": {}}], "action": action, "rules": [{}]},
            });
            vec![Arc::new(serde_json::from_value(policy).unwrap())]
        };
        let mut now = Objects {
            pods: vec![pod("a"), pod("b")],
            authorization_policies: policy("ALLOW"),
            ..Objects::default()
        };
        let mut translator = Translator::new(test_settings());
        let first = Encoder::new(translator.translate(&now).mesh);
        let of = |encoder: &Encoder, pod: &str| encoder.authorization("shop", pod).unwrap();
        assert!(Arc::ptr_eq(&of(&first, "a"), &of(&first, "b")));
        assert!(first.authorization("shop", "absent").is_none());
        now.pods.push(pod("c"));
        let second = first.next(translator.translate(&now).mesh);
        assert!(Arc::ptr_eq(&of(&first, "a"), &of(&second, "c")));
        now.authorization_policies = policy("DENY");
        let last = second.next(translator.translate(&now).mesh);
        assert_eq!(last.authorizations.lock().len(), 0);
        assert_ne!(of(&first, "a").version, of(&last, "a").version);
    }

    #[test]
    fn clients_of_different_nodes_have_their_own_endpoints_of_a_local_service() {
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
        // The next mesh has the same set.
        let next = encoder.next(translator.translate(&now).mesh);
        let again = next.endpoints(&id, "node1").unwrap();
        assert!(Arc::ptr_eq(&again, &on("node1")));
    }
}
