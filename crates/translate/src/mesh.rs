//! The mesh as one client sees it: what is at an address, and the resources that it needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{
    Backend, Destination, Endpoint, EndpointSet, Filter, GatewayId, Identity, Routing, Rule,
    Service, ServicePort, Target, WeightedBackend, Workload,
};

use crate::endpoints::Leaving;
use crate::gateways::GatewayView;

/// Everything that proxies are told, indexed by what they ask for. Cheap to clone; immutable.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Every `clusterIP:port`.
    pub(crate) addresses: HashMap<SocketAddr, Arc<PortView>>,
    pub(crate) endpoints: HashMap<ServicePort, Arc<EndpointSet>>,
    /// Pods that own their IP, with the identity of those in the mesh.
    pub(crate) pods: HashMap<IpAddr, Option<Identity>>,
    /// Meshed pods by namespace, then name.
    pub(crate) workloads: HashMap<String, HashMap<String, Arc<Workload>>>,
    pub(crate) leaving: Leaving,
    pub(crate) gateways: HashMap<GatewayId, Arc<GatewayView>>,
    /// Those that differ from what the mesh sees.
    pub(crate) gateway_endpoints: HashMap<ServicePort, Arc<EndpointSet>>,
    /// The pods of gateways by namespace, then name.
    pub(crate) gateway_pods: HashMap<String, HashMap<String, GatewayId>>,
}

/// One Service port: what clients of each namespace see there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortView {
    /// For clients of namespaces without routes of their own.
    pub(crate) producer: Arc<Service>,
    /// By client namespace.
    pub(crate) consumers: BTreeMap<String, Arc<Service>>,
}

impl Mesh {
    /// What is at `address` for a client of `client_namespace`: a Service by any of its cluster IPs, else a pod by
    /// its IP, else unknown.
    pub fn destination(&self, address: SocketAddr, client_namespace: &str) -> Destination {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let target = if let Some(view) = self.addresses.get(&address) {
            let service = view.consumers.get(client_namespace);
            Target::Service(Arc::clone(service.unwrap_or(&view.producer)))
        } else if let Some(identity) = self.pods.get(&address.ip()) {
            Target::Pod(Endpoint {
                address,
                identity: identity.clone(),
            })
        } else {
            Target::Unknown
        };
        Destination { address, target }
    }

    /// The ready endpoints of a Service port; `None` when there is no such port.
    pub fn endpoints(&self, id: &ServicePort) -> Option<Arc<EndpointSet>> {
        self.endpoints.get(id).cloned()
    }

    /// What a pod's own proxy is told; `None` when the pod is not in the mesh.
    pub fn workload(&self, namespace: &str, pod: &str) -> Option<Arc<Workload>> {
        self.workloads.get(namespace)?.get(pod).cloned()
    }

    /// How many pods are in the mesh.
    pub fn pods_in_mesh(&self) -> usize {
        self.workloads.values().map(HashMap::len).sum()
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
        let rules: &[Rule] = match &service.routing {
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
        rules.iter().flat_map(rule_targets).chain(own).collect()
    }

    /// What the proxies of a Gateway are told; `None` when there is no such Gateway of ours.
    pub fn gateway(&self, id: &GatewayId) -> Option<Arc<GatewayView>> {
        self.gateways.get(id).cloned()
    }

    /// As [`Mesh::endpoints`], as gateways see them: UDP ports too, and with TLS where a BackendTLSPolicy asks for it.
    pub fn gateway_endpoints(&self, id: &ServicePort) -> Option<Arc<EndpointSet>> {
        let own = self.gateway_endpoints.get(id);
        own.cloned().or_else(|| self.endpoints(id))
    }

    /// The Gateway that a pod is a proxy of: the label alone makes no pod one, it must run under the account that was
    /// made for the Gateway.
    pub fn gateway_of(&self, namespace: &str, pod: &str) -> Option<GatewayId> {
        self.gateway_pods.get(namespace)?.get(pod).cloned()
    }
}

/// Where the rule's requests and copies of them go.
pub(crate) fn rule_targets(rule: &Rule) -> impl Iterator<Item = ServicePort> + '_ {
    service_ports(&rule.backends).chain(mirrors(rule))
}

/// Where copies of the rule's requests go.
fn mirrors(rule: &Rule) -> impl Iterator<Item = ServicePort> + '_ {
    let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    rule.filters
        .iter()
        .chain(of_backends)
        .filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror.to.clone()),
            _ => None,
        })
}

pub(crate) fn service_ports(
    backends: &[WeightedBackend],
) -> impl Iterator<Item = ServicePort> + '_ {
    backends
        .iter()
        .filter_map(|backend| match &backend.backend {
            Backend::Service(port) => Some(port.clone()),
            Backend::Invalid(_) => None,
        })
}
