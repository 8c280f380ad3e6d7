//! What clients see at each cluster IP and port: the Service with the routes that bind them.
//!
//! A view is kept for as long as its Service and its routes are the same.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_ir::{RouteKind, Routing, Rule, Service, ServicePort};

use crate::cluster::services::{Frontend, ServiceInfo, Services};
use crate::memo::{self, Last, Same};
use crate::routes::Rules;
use crate::service_routes::attach::{Attached, Attachments, Group};

/// Routes with their Services, in the order that decides ties.
pub(crate) type Routes = [Arc<Attached>];

pub(crate) type Addresses = HashMap<SocketAddr, Arc<Service>>;

/// By the address of a load balancer: a cluster IP and port of its Service.
pub(crate) type Balancers = HashMap<SocketAddr, SocketAddr>;

/// One Service port with routes: what clients of each namespace see there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortView {
    /// For clients of namespaces without routes of their own.
    pub(crate) producer: Arc<Service>,
    /// By client namespace.
    pub(crate) consumers: BTreeMap<String, Arc<Service>>,
}

/// Views as they were made last.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    addresses: Last<Same<Services>, Addresses>,
    balancers: Last<Same<Services>, Balancers>,
    routed: HashMap<ServicePort, (From, Arc<PortView>)>,
}

/// What a view is made from: the Service without routes, and the routes by group.
#[derive(Debug, PartialEq)]
struct From {
    direct: Same<Service>,
    groups: Vec<(Group, Vec<Same<Attached>>)>,
}

impl Memo {
    /// The address and port of each load balancer, with a cluster IP and port of its Service.
    pub(crate) fn balancers(&mut self, services: &Same<Services>) -> Arc<Balancers> {
        let from = services.clone();
        self.balancers.get_alike(from, || balancers(services)).0
    }

    /// Every cluster IP and port without routes; and those with routes.
    pub(crate) fn read(
        &mut self,
        services: &Same<Services>,
        routes: &Routes,
        attached: &Attachments,
    ) -> (Arc<Addresses>, HashMap<SocketAddr, Arc<PortView>>) {
        let addresses = self
            .addresses
            .get(services.clone(), || addresses(services))
            .0;
        let mut before = std::mem::take(&mut self.routed);
        let mut routed = HashMap::new();
        for (id, groups) in attached.ports() {
            let service = services.get(&id.service);
            let Some((info, port)) =
                service.and_then(|info| Some((info, info.port(id.port.into())?)))
            else {
                continue;
            };
            let members = |places: &BTreeSet<usize>| {
                let members = places.iter().map(|place| Same::of(&routes[*place]));
                members.collect()
            };
            let groups = groups.iter();
            let from = From {
                direct: Same::of(&port.direct),
                groups: groups
                    .map(|(group, of)| (group.clone(), members(of)))
                    .collect(),
            };
            let view = match before.remove(id) {
                Some((known, view)) if known == from => view,
                known => memo::alike(view(&from), known.as_ref().map(|(_, view)| view)),
            };
            for address in sockets(info, port.number) {
                // An address that two Services claim leads to the first.
                if addresses.get(&address).is_some_and(|first| first.id == *id) {
                    routed.insert(address, Arc::clone(&view));
                }
            }
            self.routed.insert(id.clone(), (from, view));
        }
        (addresses, routed)
    }
}

/// Of two Services that claim an address the first has it: Services before ServiceImports, each by name.
fn addresses(services: &Services) -> Addresses {
    let mut all = Addresses::new();
    for info in services.iter() {
        for port in &info.ports {
            for address in sockets(info, port.number) {
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

/// As [`addresses`], of two Services that claim one the first has it.
fn balancers(services: &Services) -> Balancers {
    let mut all: HashMap<SocketAddr, (&ServicePort, SocketAddr)> = HashMap::new();
    for info in services.iter() {
        for port in &info.ports {
            let Some(own) = sockets(info, port.number).next() else {
                continue;
            };
            for address in &info.balancers {
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

fn sockets(info: &ServiceInfo, port: u16) -> impl Iterator<Item = SocketAddr> {
    let addresses = match &info.frontend {
        Frontend::ClusterIp(addresses) => addresses.as_slice(),
        Frontend::Headless | Frontend::ExternalName | Frontend::Pending => &[],
    };
    let addresses = addresses.iter();
    addresses.map(move |address| SocketAddr::new(*address, port))
}

fn view(from: &From) -> PortView {
    let mut producer = None;
    let mut consumers = BTreeMap::new();
    for (group, members) in &from.groups {
        let service = Arc::new(Service {
            id: from.direct.id.clone(),
            protocol: from.direct.protocol,
            routing: routing(members.iter().map(|of| &of.0)),
        });
        match group {
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

/// One kind of route alone, that which goes before the others (GEP-1294, "Route types").
pub(crate) fn routing<'a>(members: impl Iterator<Item = &'a Arc<Attached>> + Clone) -> Routing {
    let routes = || members.clone().map(|of| &of.route);
    let Some(first) = routes().min_by_key(|route| route.id.kind) else {
        return Routing::Http(Vec::new());
    };
    let of_kind = || routes().filter(|route| route.id.kind == first.id.kind);
    let rules = || -> Vec<Arc<Rule>> {
        let rules = of_kind().flat_map(|route| match &route.rules {
            Rules::Requests(rules) => rules.as_slice(),
            Rules::Tls(_) | Rules::Bytes(_) => &[],
        });
        rules.map(|compiled| Arc::clone(&compiled.rule)).collect()
    };
    match &first.rules {
        Rules::Requests(_) if first.id.kind == RouteKind::Grpc => Routing::Grpc(rules()),
        Rules::Requests(_) => Routing::Http(rules()),
        Rules::Tls(_) => {
            let rules = of_kind().filter_map(|route| match &route.rules {
                Rules::Tls(rule) => rule.as_ref(),
                Rules::Requests(_) | Rules::Bytes(_) => None,
            });
            Routing::Tls(rules.map(|compiled| compiled.rule.clone()).collect())
        }
        // Nothing tells connections apart: the first route takes all.
        Rules::Bytes(compiled) => Routing::Tcp(compiled.rule.clone()),
    }
}
