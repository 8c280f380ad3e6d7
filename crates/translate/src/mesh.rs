//! The mesh as one client sees it: what is at an address, and the resources that its proxy needs.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{
    Authorizations, Destination, Endpoint, EndpointSet, GatewayId, Routing, Rule, Service,
    ServicePort, Target, Workload,
};

use crate::cluster::endpoints::{Endpoints, TerminatingPods};
use crate::cluster::pods::Pods;
use crate::gateways::GatewayView;
use crate::output::TrafficPolicyId;
use crate::policies::Authorized;
use crate::routes::targets::{rule_targets, service_ports};
use crate::service_routes::views::{Addresses, LoadBalancers, PortView};
use crate::traffic::{AppliedPolicies, LimitedWorkloads};

/// The whole configuration of proxies, indexed by resource. Immutable and cheap to clone.
///
/// Parts that did not change between two translations of a [`Translator`](crate::Translator) are
/// shared: the next mesh holds the same `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Every `clusterIP:port`, without attached routes.
    pub(crate) addresses: Arc<Addresses>,
    /// Addresses of load balancers, each with the cluster IP that serves its clients instead.
    pub(crate) load_balancers: Arc<LoadBalancers>,
    /// The `clusterIP:port` pairs that have routes attached.
    pub(crate) routed: HashMap<SocketAddr, Arc<PortView>>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) terminating: Arc<TerminatingPods>,
    pub(crate) gateways: HashMap<GatewayId, Arc<GatewayView>>,
    pub(crate) authorized: Authorized,
    /// The TrafficPolicies that apply at each Service port.
    pub(crate) traffic: Arc<AppliedPolicies>,
    /// The configuration of pods whose Services limit what they get.
    pub(crate) limited: Arc<LimitedWorkloads>,
    /// Endpoint sets that gateways see differently from the mesh.
    pub(crate) gateway_endpoints: Arc<Endpoints>,
}

/// Facts about a pod that identify it.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    /// `metadata.uid`.
    pub uid: &'a Arc<str>,
    /// Empty until the pod is scheduled.
    pub node: &'a str,
    /// The pod's own addresses: none before it has one, and none if it uses the host network.
    pub addresses: &'a [IpAddr],
    /// Whether the pod uses the host network.
    pub on_host: bool,
}

impl Mesh {
    /// Returns what is at `address` for a client in `client_namespace`: a Service by one of its
    /// cluster IPs, else a pod by its IP, else a Service by the address of its load balancer, else
    /// [`Target::Unknown`].
    pub fn destination(&self, address: SocketAddr, client_namespace: &str) -> Destination {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let target = if let Some(service) = self.service(address, client_namespace) {
            Target::Service(Arc::clone(service))
        } else if let Some(pod) = self.pods.at(&address.ip()) {
            Target::Pod(Endpoint {
                address,
                identity: pod.identity_at(address.port()).cloned(),
            })
        } else if let Some(service) = self.by_load_balancer(address, client_namespace) {
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

    fn by_load_balancer(
        &self,
        address: SocketAddr,
        client_namespace: &str,
    ) -> Option<&Arc<Service>> {
        let own = self.load_balancers.get(&address)?;
        self.service(*own, client_namespace)
    }

    /// Returns true if clients of some namespace see this very `service` (by identity) at the
    /// address.
    pub fn shows(&self, address: SocketAddr, service: &Arc<Service>) -> bool {
        let is = |other: &Arc<Service>| Arc::ptr_eq(service, other);
        let own = self.load_balancers.get(&address).copied();
        let address = own.unwrap_or(address);
        match self.routed.get(&address) {
            Some(view) => is(&view.producer) || view.consumers.values().any(is),
            None => self.addresses.get(&address).is_some_and(is),
        }
    }

    /// Returns the ready endpoints of a Service port for clients on a node, or `None` if there is
    /// no such port.
    pub fn endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<EndpointSet>> {
        Some(Arc::clone(self.endpoints.get(id)?.for_node(node)))
    }

    /// Returns every endpoint set of a Service port that some client sees, including those of
    /// gateways.
    pub fn sets(&self, id: &ServicePort) -> impl Iterator<Item = &Arc<EndpointSet>> {
        let sets = [self.endpoints.get(id), self.gateway_endpoints.get(id)];
        sets.into_iter().flatten().flat_map(|sets| sets.iter())
    }

    /// Returns the node that a pod runs on, or `None` if the pod is not known.
    pub fn node(&self, namespace: &str, pod: &str) -> Option<&str> {
        Some(&self.pods.get(namespace, pod)?.locality.node)
    }

    /// Returns the workload configuration of a pod's own proxy, or `None` if the pod is not in the
    /// mesh.
    pub fn workload(&self, namespace: &str, pod: &str) -> Option<Arc<Workload>> {
        let own = self.pods.get(namespace, pod)?.workload.as_ref()?;
        let limited = self.limited.get(namespace).and_then(|of| of.get(pod));
        Some(Arc::clone(limited.unwrap_or(own)))
    }

    /// Returns the policies that a pod's own proxy enforces: at the pod, or at the Gateway that it
    /// is a proxy of. Returns `None` if the pod is not in the mesh, or if its Gateway is not
    /// managed by this controller.
    pub fn authorizations(&self, namespace: &str, pod: &str) -> Option<&Arc<Authorizations>> {
        let info = self.pods.get(namespace, pod)?;
        match &info.gateway {
            Some(id) => self.authorized.gateway(id),
            None => info
                .has_server()
                .then(|| self.authorized.sidecar(namespace, pod)),
        }
    }

    /// Returns everything that [`Mesh::authorizations`] returns for some pod; the same can be
    /// repeated.
    pub fn all_authorizations(&self) -> impl Iterator<Item = &Arc<Authorizations>> {
        self.authorized.all()
    }

    /// Returns the TrafficPolicies that apply at a Service port.
    pub fn traffic_policies(&self, id: &ServicePort) -> &[TrafficPolicyId] {
        self.traffic.get(id).map_or(&[], |of| &**of)
    }

    /// Returns true if a TrafficPolicy applies anywhere.
    pub fn has_traffic_policies(&self) -> bool {
        !self.traffic.is_empty()
    }

    /// Returns a pod that has not terminated, whether it is in the mesh or not.
    pub fn pod(&self, namespace: &str, pod: &str) -> Option<PodFacts<'_>> {
        let pod = self.pods.get(namespace, pod)?;
        Some(PodFacts {
            uid: &pod.uid,
            node: &pod.locality.node,
            addresses: &pod.addresses,
            on_host: pod.on_host,
        })
    }

    /// Returns the number of pods in the mesh.
    pub fn pods_in_mesh(&self) -> usize {
        self.pods.in_mesh
    }

    /// Returns the Service ports that have a terminating pod as an endpoint, or `None` if the pod
    /// is not terminating.
    pub fn terminating(&self, namespace: &str, pod: &str) -> Option<&BTreeSet<ServicePort>> {
        self.terminating
            .get(&(namespace.to_owned(), pod.to_owned()))
    }

    /// Returns the endpoint sets that a proxy needs along with `destination`.
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
        // Connections that are not HTTP match no rule and go to the Service itself.
        let own = std::iter::once(service.id.clone());
        rules
            .iter()
            .flat_map(|rule| rule_targets(rule))
            .chain(own)
            .collect()
    }

    /// Returns the configuration for the proxies of a Gateway, or `None` if the Gateway is not
    /// managed by this controller.
    pub fn gateway(&self, id: &GatewayId) -> Option<Arc<GatewayView>> {
        self.gateways.get(id).cloned()
    }

    /// Like [`Mesh::endpoints`], as gateways see them: including UDP ports, and with TLS where a
    /// BackendTLSPolicy requires it.
    pub fn gateway_endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<EndpointSet>> {
        let own = self.gateway_endpoints.get(id);
        let own = own.map(|sets| Arc::clone(sets.for_node(node)));
        own.or_else(|| self.endpoints(id, node))
    }

    /// Returns the Gateway that a pod is a proxy of. The label is not enough: the pod must run
    /// under the service account that was created for the Gateway.
    pub fn gateway_of(&self, namespace: &str, pod: &str) -> Option<GatewayId> {
        self.pods.get(namespace, pod)?.gateway.clone()
    }
}
