//! What clients see at each cluster IP and port: the Service with the routes that apply to them.
//!
//! A view is kept for as long as its Service and its routes are the same objects.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_ir::{RouteKind, Routing, Rule, Service, ServicePort};

use crate::cluster::services::{ServiceAddressing, ServiceInfo, Services};
use crate::memo::{self, ByIdentity, Memo};
use crate::routes::Rules;
use crate::service_routes::attach::{AttachedRoute, Attachments, ConsumerNamespace};

/// Routes with their Services, in tie-breaking order.
pub(crate) type Routes = [Arc<AttachedRoute>];

/// The Service port at each cluster IP and port, without routes.
pub(crate) type Addresses = HashMap<SocketAddr, Arc<Service>>;

/// A cluster IP and port for the address and port of each load balancer.
pub(crate) type LoadBalancers = HashMap<SocketAddr, SocketAddr>;

/// A Service port with routes, as the clients of each namespace see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortView {
    /// For clients of namespaces without consumer routes.
    pub(crate) producer: Arc<Service>,
    /// By namespace of the client.
    pub(crate) consumers: BTreeMap<String, Arc<Service>>,
}

/// The last views.
#[derive(Debug, Default)]
pub(crate) struct ViewCache {
    addresses: Memo<ByIdentity<Services>, Addresses>,
    load_balancers: Memo<ByIdentity<Services>, LoadBalancers>,
    routed: HashMap<ServicePort, (ViewInputs, Arc<PortView>)>,
}

/// The inputs of a view: the Service without routes, and the routes by consumer namespace.
#[derive(Debug, PartialEq)]
struct ViewInputs {
    direct: ByIdentity<Service>,
    consumers: Vec<(ConsumerNamespace, Vec<ByIdentity<AttachedRoute>>)>,
}

impl ViewCache {
    /// Returns the address and port of each load balancer, with a cluster IP and port of its
    /// Service.
    pub(crate) fn load_balancers(&mut self, services: &ByIdentity<Services>) -> Arc<LoadBalancers> {
        let from = services.clone();
        self.load_balancers
            .get_interned(from, || load_balancers(services))
            .0
    }

    /// Returns every cluster IP and port without routes, and the views of those with routes.
    pub(crate) fn update(
        &mut self,
        services: &ByIdentity<Services>,
        routes: &Routes,
        attached: &Attachments,
    ) -> (Arc<Addresses>, HashMap<SocketAddr, Arc<PortView>>) {
        let addresses = self
            .addresses
            .get(services.clone(), || addresses(services))
            .0;
        let mut before = std::mem::take(&mut self.routed);
        let mut routed = HashMap::new();
        for (id, consumers) in attached.ports() {
            let service = services.get(&id.service);
            let Some((info, port)) =
                service.and_then(|info| Some((info, info.port(id.port.into())?)))
            else {
                continue;
            };
            let members = |places: &BTreeSet<usize>| {
                let members = places
                    .iter()
                    .map(|position| ByIdentity::of(&routes[*position]));
                members.collect()
            };
            let consumers = consumers.iter();
            let from = ViewInputs {
                direct: ByIdentity::of(&port.direct),
                consumers: consumers
                    .map(|(consumer, of)| (consumer.clone(), members(of)))
                    .collect(),
            };
            let view = match before.remove(id) {
                Some((known, view)) if known == from => view,
                known => memo::intern(view(&from), known.as_ref().map(|(_, view)| view)),
            };
            for address in cluster_sockets(info, port.number) {
                // If two Services claim an address, it belongs to the first.
                if addresses.get(&address).is_some_and(|first| first.id == *id) {
                    routed.insert(address, Arc::clone(&view));
                }
            }
            self.routed.insert(id.clone(), (from, view));
        }
        (addresses, routed)
    }
}

/// If two Services claim an address, it belongs to the first: Services before ServiceImports, each
/// by name.
fn addresses(services: &Services) -> Addresses {
    let mut all = Addresses::new();
    for info in services.iter() {
        for port in &info.ports {
            for address in cluster_sockets(info, port.number) {
                match all.entry(address) {
                    Entry::Vacant(free) => drop(free.insert(Arc::clone(&port.direct))),
                    Entry::Occupied(mut taken) => {
                        if *info.id < taken.get().id.service {
                            taken.insert(Arc::clone(&port.direct));
                        }
                    }
                }
            }
        }
    }
    all
}

/// As in [`addresses`], an address that two Services claim belongs to the first.
fn load_balancers(services: &Services) -> LoadBalancers {
    let mut all: HashMap<SocketAddr, (&ServicePort, SocketAddr)> = HashMap::new();
    for info in services.iter() {
        for port in &info.ports {
            let Some(own) = cluster_sockets(info, port.number).next() else {
                continue;
            };
            for address in &info.load_balancers {
                let at = SocketAddr::new(*address, port.number);
                let first = all.entry(at).or_insert((&port.id, own));
                if *port.id < *first.0 {
                    *first = (&port.id, own);
                }
            }
        }
    }
    let all = all.into_iter();
    all.map(|(address, (_, own))| (address, own)).collect()
}

fn cluster_sockets(info: &ServiceInfo, port: u16) -> impl Iterator<Item = SocketAddr> {
    let addresses = match &info.addressing {
        ServiceAddressing::ClusterIp(addresses) => addresses.as_slice(),
        ServiceAddressing::Headless
        | ServiceAddressing::ExternalName
        | ServiceAddressing::Pending => &[],
    };
    let addresses = addresses.iter();
    addresses.map(move |address| SocketAddr::new(*address, port))
}

fn view(from: &ViewInputs) -> PortView {
    let mut producer = None;
    let mut consumers = BTreeMap::new();
    for (consumer, members) in &from.consumers {
        let service = Arc::new(Service {
            id: from.direct.id.clone(),
            protocol: from.direct.protocol,
            routing: routing(members.iter().map(|of| &of.0)),
        });
        match consumer {
            None => producer = Some(service),
            Some(namespace) => {
                consumers.insert(namespace.clone(), service);
            }
        }
    }
    PortView {
        producer: producer.unwrap_or_else(|| Arc::clone(&from.direct.0)),
        consumers,
    }
}

/// Only routes of one kind apply: the kind that takes precedence (GEP-1294, "Route types").
pub(crate) fn routing<'a>(
    members: impl Iterator<Item = &'a Arc<AttachedRoute>> + Clone,
) -> Routing {
    let routes = || members.clone().map(|of| &of.route);
    let Some(first) = routes().min_by_key(|route| route.id.kind) else {
        return Routing::Http(Vec::new());
    };
    let of_kind = || routes().filter(|route| route.id.kind == first.id.kind);
    let rules = || -> Vec<Arc<Rule>> {
        let rules = of_kind().flat_map(|route| match &route.rules {
            Rules::Requests(rules) => rules.as_slice(),
            Rules::Tls(_) | Rules::Connections(_) => &[],
        });
        rules.map(|compiled| Arc::clone(&compiled.rule)).collect()
    };
    match &first.rules {
        Rules::Requests(_) if first.id.kind == RouteKind::Grpc => Routing::Grpc(rules()),
        Rules::Requests(_) => Routing::Http(rules()),
        Rules::Tls(_) => {
            let rules = of_kind().filter_map(|route| match &route.rules {
                Rules::Tls(rule) => rule.as_ref(),
                Rules::Requests(_) | Rules::Connections(_) => None,
            });
            Routing::Tls(rules.map(|compiled| compiled.rule.clone()).collect())
        }
        // Connections have nothing to match on, so the first route takes all of them.
        Rules::Connections(compiled) => Routing::Tcp(compiled.rule.clone()),
    }
}
