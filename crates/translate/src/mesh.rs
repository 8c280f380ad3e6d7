//! The mesh as one client sees it: what is at an address, and the resources that it needs.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{
    Destination, Endpoint, EndpointSet, GatewayId, Routing, Rule, Service, ServicePort, Target,
    Workload,
};

use crate::cluster::endpoints::{Endpoints, Leaving};
use crate::cluster::pods::Pods;
use crate::gateways::GatewayView;
use crate::routes::targets::{rule_targets, service_ports};
use crate::service_routes::views::{Addresses, Balancers, PortView};

/// Everything that proxies are told, indexed by what they ask for. Cheap to clone; immutable.
///
/// What the next mesh of a [`Translator`](crate::Translator) says in the same words, it holds in the same `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Every `clusterIP:port`, without the routes that are attached there.
    pub(crate) addresses: Arc<Addresses>,
    /// Where clients of load balancers' addresses are led in their place.
    pub(crate) balancers: Arc<Balancers>,
    /// Those that routes are attached to.
    pub(crate) routed: HashMap<SocketAddr, Arc<PortView>>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) leaving: Arc<Leaving>,
    pub(crate) gateways: HashMap<GatewayId, Arc<GatewayView>>,
    /// Those that differ from what the mesh sees.
    pub(crate) gateway_endpoints: Arc<Endpoints>,
}

/// Who a pod is, as the cluster shows it.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    pub uid: &'a Arc<str>,
    /// Empty until the pod is scheduled.
    pub node: &'a str,
    /// Its own: none before it has one, and none on its host's network.
    pub addresses: &'a [IpAddr],
    pub on_host: bool,
}

impl Mesh {
    /// What is at `address` for a client of `client_namespace`: a Service by any of its cluster IPs, else a pod by
    /// its IP, else a Service by the address of its load balancer, else unknown.
    pub fn destination(&self, address: SocketAddr, client_namespace: &str) -> Destination {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let target = if let Some(service) = self.service(address, client_namespace) {
            Target::Service(Arc::clone(service))
        } else if let Some(pod) = self.pods.at(&address.ip()) {
            Target::Pod(Endpoint {
                address,
                identity: pod.identity_at(address.port()).cloned(),
            })
        } else if let Some(service) = self.balanced(address, client_namespace) {
            Target::Service(Arc::clone(service))
        } else {
            Target::Unknown
        };
        Destination { address, target }
    }

    fn service(&self, address: SocketAddr, client_namespace: &str) -> Option<&Arc<Service>> {
        let Some(view) = self.routed.get(&address) else {
            return self.addresses.get(&address);
        };
        let own = view.consumers.get(client_namespace);
        Some(own.unwrap_or(&view.producer))
    }

    fn balanced(&self, address: SocketAddr, client_namespace: &str) -> Option<&Arc<Service>> {
        let own = self.balancers.get(&address)?;
        self.service(*own, client_namespace)
    }

    /// Whether clients of some namespace see this very Service at the address.
    pub fn shows(&self, address: SocketAddr, service: &Arc<Service>) -> bool {
        let is = |other: &Arc<Service>| Arc::ptr_eq(service, other);
        let own = self.balancers.get(&address).copied();
        let address = own.unwrap_or(address);
        match self.routed.get(&address) {
            Some(view) => is(&view.producer) || view.consumers.values().any(is),
            None => self.addresses.get(&address).is_some_and(is),
        }
    }

    /// The ready endpoints of a Service port for clients of a node; `None` when there is no such port.
    pub fn endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<EndpointSet>> {
        Some(Arc::clone(self.endpoints.get(id)?.on(node)))
    }

    /// The sets of a Service port, one of which each client sees; as gateways see them too.
    pub fn sets(&self, id: &ServicePort) -> impl Iterator<Item = &Arc<EndpointSet>> {
        let sets = [self.endpoints.get(id), self.gateway_endpoints.get(id)];
        sets.into_iter().flatten().flat_map(|sets| sets.each())
    }

    /// The node that a pod runs on; `None` when the pod is not known.
    pub fn node(&self, namespace: &str, pod: &str) -> Option<&str> {
        Some(&self.pods.get(namespace, pod)?.place.node)
    }

    /// What a pod's own proxy is told; `None` when the pod is not in the mesh.
    pub fn workload(&self, namespace: &str, pod: &str) -> Option<Arc<Workload>> {
        self.pods.get(namespace, pod)?.workload.clone()
    }

    /// A pod that has not ended, in the mesh or not.
    pub fn pod(&self, namespace: &str, pod: &str) -> Option<PodFacts<'_>> {
        let pod = self.pods.get(namespace, pod)?;
        Some(PodFacts {
            uid: &pod.uid,
            node: &pod.place.node,
            addresses: &pod.addresses,
            on_host: pod.on_host,
        })
    }

    /// How many pods are in the mesh.
    pub fn pods_in_mesh(&self) -> usize {
        self.pods.in_mesh
    }

    /// The Service ports that a pod which is being deleted was an endpoint of; `None` when it is not being deleted.
    pub fn leaving(&self, namespace: &str, pod: &str) -> Option<&BTreeSet<ServicePort>> {
        self.leaving.get(&(namespace.to_owned(), pod.to_owned()))
    }

    /// The endpoint sets that a proxy needs with `destination`.
    pub fn referenced(destination: &Destination) -> BTreeSet<ServicePort> {
        let Target::Service(service) = &destination.target else {
            return BTreeSet::new();
        };
        let rules: &[Arc<Rule>] = match &service.routing {
            Routing::Direct(backends) => return service_ports(backends).collect(),
            Routing::Tcp(rule) => return service_ports(&rule.backends).collect(),
            Routing::Tls(rules) => {
                let backends = rules.iter().map(|rule| &*rule.rule.backends);
                return backends.flat_map(service_ports).collect();
            }
            Routing::Http(rules) | Routing::Grpc(rules) => rules,
        };
        // Bytes that are no HTTP meet no rule, and go to the Service itself.
        let own = std::iter::once(service.id.clone());
        rules
            .iter()
            .flat_map(|rule| rule_targets(rule))
            .chain(own)
            .collect()
    }

    /// What the proxies of a Gateway are told; `None` when there is no such Gateway of ours.
    pub fn gateway(&self, id: &GatewayId) -> Option<Arc<GatewayView>> {
        self.gateways.get(id).cloned()
    }

    /// As [`Mesh::endpoints`], as gateways see them: UDP ports too, and with TLS where a BackendTLSPolicy asks for it.
    pub fn gateway_endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<EndpointSet>> {
        let own = self.gateway_endpoints.get(id);
        let own = own.map(|sets| Arc::clone(sets.on(node)));
        own.or_else(|| self.endpoints(id, node))
    }

    /// The Gateway that a pod is a proxy of: the label alone makes no pod one, it must run under the account that was
    /// made for the Gateway.
    pub fn gateway_of(&self, namespace: &str, pod: &str) -> Option<GatewayId> {
        self.pods.get(namespace, pod)?.gateway.clone()
    }
}
