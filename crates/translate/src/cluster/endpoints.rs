//! The endpoints of every port of Services and ServiceImports, from EndpointSlices.
//!
//! A pod that is being deleted counts as draining at once, without waiting for its EndpointSlices. An endpoint whose
//! pod is not known is left out: without its pod nobody can say whether it is in the mesh, and traffic to the mesh must
//! not go in plain text. Pods of other clusters are known to nobody here: slices that say from which cluster they come
//! are taken at their word, and what is no address of a pod of this cluster gets plain text.
//!
//! A Service's sets are kept for as long as it, its slices and the pods behind them are the same objects.
//!
//! Source: the EndpointSlice API, `discovery.k8s.io/v1`: absent `ready` counts as ready; only the first address of an
//! endpoint counts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Choice, Endpoint, EndpointSet, Hints, ServiceId, ServicePort};

use crate::cluster::address_owners::{Bar, Behind, Surroundings, left_out};
use crate::cluster::endpoint_sets::Sets;
use crate::cluster::pods::{PodInfo, Pods};
use crate::cluster::services::{PortInfo, ServiceInfo, Services};
use crate::cluster::slices::{self, Named, SliceInfo, Slices, State};
use crate::input::EndpointRules;
use crate::limits::ENDPOINTS;
use crate::memo::{self, Last, Same};
use crate::objects::EndpointSlice;
use crate::references::grants::Grants;

pub(crate) type Endpoints = HashMap<Arc<ServicePort>, Arc<Sets>>;

/// The Service ports that name an address of a pod among their endpoints, ready or not, for each pod that is being
/// deleted, by namespace and name.
pub(crate) type Leaving = HashMap<(String, String), BTreeSet<ServicePort>>;

/// All that is known of endpoints.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) slices: Same<Slices>,
    /// Of TCP ports.
    pub(crate) tcp: Arc<Endpoints>,
    /// Those of them that gateways see otherwise.
    pub(crate) at_gateways: Endpoints,
    /// By Service: the addresses that gateways do not send to, in words.
    pub(crate) left_out: HashMap<Arc<ServiceId>, Arc<str>>,
    /// Of the addresses that nobody sends to.
    pub(crate) warnings: BTreeSet<String>,
    /// Of UDP ports.
    pub(crate) udp: Arc<Endpoints>,
    pub(crate) leaving: Arc<Leaving>,
}

/// Endpoint sets as they were made last.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    slices: slices::Memo,
    services: Option<Same<Services>>,
    /// Of every Service.
    made: Vec<Made>,
    /// Those of all Services.
    tcp: Arc<Endpoints>,
    udp: Arc<Endpoints>,
    last: Last<Sources, Known>,
}

type Sources = (Same<Services>, Same<Slices>, Same<Pods>, Same<Grants>);

/// The sets of a Service, and what they were made from.
#[derive(Debug)]
struct Made {
    service: Arc<ServiceInfo>,
    slices: Vec<Arc<SliceInfo>>,
    /// For each endpoint of each slice.
    behind: Vec<Behind>,
    /// In the order of the Service's ports.
    tcp: Vec<Arc<Sets>>,
    /// As gateways see them.
    udp: Vec<Arc<Sets>>,
    /// Those of `tcp` as gateways see them; empty where they see the same.
    at_gateways: Vec<Arc<Sets>>,
    /// The addresses that gateways do not send to.
    left_out: Option<Arc<str>>,
    warning: Option<String>,
}

impl Memo {
    pub(crate) fn read(
        &mut self,
        services: &Same<Services>,
        slices: &[Arc<EndpointSlice>],
        pods: &Same<Pods>,
        grants: &Same<Grants>,
        rules: &EndpointRules,
    ) -> Same<Known> {
        let slices = self.slices.read(slices);
        let from = (
            services.clone(),
            slices.clone(),
            pods.clone(),
            grants.clone(),
        );
        self.last.get(from, || {
            let around = Surroundings::new(pods, services, grants, rules);
            let others = self.services.as_ref() != Some(services);
            if others {
                self.services = Some(services.clone());
                self.made = made(services, std::mem::take(&mut self.made));
                self.tcp = Arc::default();
                self.udp = Arc::default();
            }
            let (mut tcp, mut udp) = (Vec::new(), Vec::new());
            for made in &mut self.made {
                if made.renew(&slices, &around, rules) || others {
                    tcp.extend(by_port(&made.service.ports, &made.tcp));
                    udp.extend(by_port(&made.service.udp, &made.udp));
                }
            }
            insert(&mut self.tcp, tcp);
            insert(&mut self.udp, udp);
            let made = || self.made.iter();
            let at_gateways = made().flat_map(|of| by_port(&of.service.ports, &of.at_gateways));
            let left_out =
                made().filter_map(|of| Some((Arc::clone(&of.service.id), of.left_out.clone()?)));
            Known {
                at_gateways: at_gateways.collect(),
                left_out: left_out.collect(),
                warnings: made().filter_map(|of| of.warning.clone()).collect(),
                leaving: Arc::new(leaving(services, &slices, pods)),
                slices,
                tcp: Arc::clone(&self.tcp),
                udp: Arc::clone(&self.udp),
            }
        })
    }
}

/// Of every Service; what was made `before` of the same one stands.
fn made(services: &Services, before: Vec<Made>) -> Vec<Made> {
    let place = |service: &Arc<ServiceInfo>| Arc::as_ptr(service).addr();
    let before = before.into_iter().map(|made| (place(&made.service), made));
    let mut before: HashMap<usize, Made> = before.collect();
    let made = services.iter().map(|service| {
        let before = before.remove(&place(service));
        before.unwrap_or_else(|| Made::new(service))
    });
    made.collect()
}

fn by_port(
    ports: &[PortInfo],
    sets: &[Arc<Sets>],
) -> impl Iterator<Item = (Arc<ServicePort>, Arc<Sets>)> {
    let ids = ports.iter().map(|port| Arc::clone(&port.id));
    ids.zip(sets.iter().cloned())
}

/// A mesh that holds the map keeps it as it is.
fn insert(all: &mut Arc<Endpoints>, sets: Vec<(Arc<ServicePort>, Arc<Sets>)>) {
    if !sets.is_empty() {
        Arc::make_mut(all).extend(sets);
    }
}

/// The pods that are being deleted, those without a Service too.
fn leaving(services: &Services, slices: &Slices, pods: &Pods) -> Leaving {
    let name = |pod: &PodInfo| (pod.namespace.to_string(), pod.name.to_string());
    let mut leaving: Leaving = pods
        .leaving()
        .map(|pod| (name(pod), BTreeSet::new()))
        .collect();
    if leaving.is_empty() {
        return leaving;
    }
    for (id, slices) in slices.iter() {
        let ports = services.get(id).map_or(&[][..], |info| &info.ports);
        for (_, named) in endpoints(slices) {
            if let Some(pod) = pods.at(&named.address).filter(|pod| pod.leaving) {
                let ports = ports.iter().map(|port| port.id.as_ref().clone());
                leaving.entry(name(pod)).or_default().extend(ports);
            }
        }
    }
    leaving
}

/// Each with its slice.
fn endpoints(slices: &[Arc<SliceInfo>]) -> impl Iterator<Item = (&SliceInfo, &Named)> {
    let slices = slices.iter().map(Arc::as_ref);
    slices.flat_map(|slice| slice.endpoints.iter().map(move |named| (slice, named)))
}

impl Made {
    /// Without endpoints.
    fn new(service: &Arc<ServiceInfo>) -> Self {
        let mut made = Self {
            service: Arc::clone(service),
            slices: Vec::new(),
            behind: Vec::new(),
            tcp: Vec::new(),
            udp: Vec::new(),
            at_gateways: Vec::new(),
            left_out: None,
            warning: None,
        };
        made.make(&EndpointRules::default());
        made
    }

    /// Whether the sets are others than they were.
    fn renew(&mut self, slices: &Slices, around: &Surroundings<'_>, rules: &EndpointRules) -> bool {
        let slices = slices.of(&self.service.id);
        let now = endpoints(slices).map(|(slice, named)| around.behind(slice, named));
        let now: Vec<Behind> = now.collect();
        if memo::same(slices, &self.slices) && now == self.behind {
            return false;
        }
        self.slices = slices.to_vec();
        self.behind = now;
        self.make(rules)
    }

    /// As [`Made::renew`]. A set that says what it said is the same.
    fn make(&mut self, rules: &EndpointRules) -> bool {
        let kind = self.service.id.kind;
        let bars = |behind: &Behind| behind.bar_at_gateways(kind, rules);
        let nobody = |behind: &Behind| match behind {
            Behind::Barred(bar) => Some(bar.clone()),
            _ => None,
        };
        let (at_gateways, everywhere) = (self.barred(bars), self.barred(nobody));
        let make = |ports: &[PortInfo], transport, barred, before: &[Arc<Sets>]| {
            let sets = ports.iter().enumerate().map(|(place, port)| {
                let sets = self.sets(port, transport, barred);
                sets.renewed(before.get(place))
            });
            sets.collect::<Vec<_>>()
        };
        let tcp = make(&self.service.ports, "TCP", &everywhere, &self.tcp);
        // Only gateways send datagrams.
        let udp = make(&self.service.udp, "UDP", &at_gateways, &self.udp);
        let others = at_gateways.len() > everywhere.len();
        let ports: &[PortInfo] = if others { &self.service.ports } else { &[] };
        let seen = make(ports, "TCP", &at_gateways, &self.at_gateways);
        let changed = !memo::same(&self.tcp, &tcp) || !memo::same(&self.udp, &udp);
        (self.tcp, self.udp, self.at_gateways) = (tcp, udp, seen);
        self.left_out = left_out(&at_gateways);
        self.warning = self.warning(&everywhere);
        changed
    }

    /// The addresses that `bar` has something against.
    fn barred(&self, bar: impl Fn(&Behind) -> Option<Bar>) -> BTreeMap<IpAddr, Bar> {
        let all = endpoints(&self.slices).zip(&self.behind);
        let barred = all.filter_map(|((_, named), behind)| Some((named.address, bar(behind)?)));
        barred.collect()
    }

    fn warning(&self, barred: &BTreeMap<IpAddr, Bar>) -> Option<String> {
        let id = &self.service.id;
        let most = self.behind.len();
        let barred = left_out(barred).map(|words| format!("endpoints of Service {id}: {words}"));
        let many = (most > ENDPOINTS).then(|| {
            format!("Service {id} has {most} endpoints, of which a port takes {ENDPOINTS}, in the order of their addresses")
        });
        barred.or(many)
    }

    /// Without the addresses that are `barred`.
    fn sets(&self, port: &PortInfo, transport: &str, barred: &BTreeMap<IpAddr, Bar>) -> Sets {
        let serving = self.serving(port, transport, barred);
        let whole = self.endpoint_set(port, transport, &serving);
        if !self.service.local {
            return Sets::of_all(whole);
        }
        let mut by_node: BTreeMap<String, Vec<Serving<'_>>> = BTreeMap::new();
        for one in serving {
            let node = one.slice.node(one.named);
            // An endpoint of a node that is not known is no client's own.
            if !node.is_empty() {
                by_node.entry(node.to_owned()).or_default().push(one);
            }
        }
        let sets = by_node.into_iter().map(|(node, serving)| {
            let mut set = self.endpoint_set(port, transport, &serving);
            // The policy goes before the hints.
            set.choice.hints.clear();
            (node, set)
        });
        Sets::local(whole, sets.collect())
    }

    /// The endpoints that may be used.
    fn serving(
        &self,
        port: &PortInfo,
        transport: &str,
        barred: &BTreeMap<IpAddr, Bar>,
    ) -> Vec<Serving<'_>> {
        let all = endpoints(&self.slices).zip(&self.behind);
        let serving = all.filter_map(|((slice, named), behind)| {
            let number = slice.target_port(&port.name, transport)?;
            if barred.contains_key(&named.address) {
                return None;
            }
            let pod = match behind {
                Behind::Pod(pod) | Behind::ForeignPod(pod) => Some(pod),
                Behind::HostPod | Behind::External | Behind::Node => None,
                Behind::Barred(_) | Behind::Unknown => return None,
            };
            let ready = match named.state {
                State::Ready => pod.is_none_or(|pod| !pod.leaving),
                State::Draining => false,
                State::Away => return None,
            };
            Some(Serving {
                slice,
                named,
                address: SocketAddr::new(named.address, number),
                pod,
                ready,
            })
        });
        serving.collect()
    }

    /// Of those that are ready, or else of those that are draining.
    fn endpoint_set(
        &self,
        port: &PortInfo,
        transport: &str,
        serving: &[Serving<'_>],
    ) -> EndpointSet {
        let any_ready = serving.iter().any(|one| one.ready);
        let chosen = serving.iter().filter(|one| one.ready == any_ready);
        let chosen: HashMap<SocketAddr, &Serving<'_>> =
            chosen.map(|one| (one.address, one)).collect();
        // The mesh carries no datagrams.
        let meshed = transport == "TCP";
        let endpoints = chosen.values().map(|one| {
            let pod = one.pod.filter(|_| meshed);
            let identity = pod.and_then(|pod| pod.identity_at(one.address.port()));
            Endpoint {
                address: one.address,
                identity: identity.cloned(),
            }
        });
        let mut endpoints = one_family(endpoints.collect(), self.service.prefers_ipv6);
        endpoints.truncate(ENDPOINTS);
        let choice = Choice {
            hints: hints(serving, &endpoints),
            affinity: self.service.affinity,
        };
        EndpointSet {
            choice,
            ..EndpointSet::new(port.id.as_ref().clone(), port.protocol, endpoints)
        }
    }
}

/// Of an address that several slices have, those of all.
fn hints(serving: &[Serving<'_>], endpoints: &[Endpoint]) -> BTreeMap<SocketAddr, Hints> {
    let mut all: BTreeMap<SocketAddr, Hints> = BTreeMap::new();
    for one in serving {
        if let Some(Hints { nodes, zones }) = one.slice.hints(one.named) {
            let hints = all.entry(one.address).or_default();
            hints.nodes.extend(nodes);
            hints.zones.extend(zones);
        }
    }
    if !all.is_empty() {
        let chosen: HashSet<SocketAddr> = endpoints.iter().map(|of| of.address).collect();
        all.retain(|address, _| chosen.contains(address));
    }
    all
}

/// An endpoint that may be used.
struct Serving<'a> {
    slice: &'a SliceInfo,
    named: &'a Named,
    address: SocketAddr,
    pod: Option<&'a Arc<PodInfo>>,
    /// Else it is draining.
    ready: bool,
}

/// A pod of a dual-stack Service is there once for each family: those of the Service's first family, else all.
fn one_family(mut endpoints: Vec<Endpoint>, ipv6: bool) -> Vec<Endpoint> {
    let preferred = |one: &Endpoint| one.address.is_ipv6() == ipv6;
    if endpoints.iter().any(preferred) {
        endpoints.retain(preferred);
    }
    endpoints.sort_unstable_by_key(|one| one.address);
    endpoints
}
