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
use std::net::SocketAddr;
use std::sync::Arc;

use weft_ir::{Choice, Endpoint, EndpointSet, Hints, ServicePort};

use crate::memo::{self, Last, Same};
use crate::objects::EndpointSlice;
use crate::pods::{PodInfo, Pods};
use crate::services::{PortInfo, ServiceInfo, Services};
use crate::sets::Sets;
use crate::slices::{self, Named, SliceInfo, Slices, State};

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

type Sources = (Same<Services>, Same<Slices>, Same<Pods>);

/// The sets of a Service, and what they were made from.
#[derive(Debug)]
struct Made {
    service: Arc<ServiceInfo>,
    slices: Vec<Arc<SliceInfo>>,
    /// For each endpoint of each slice.
    behind: Vec<Behind>,
    /// In the order of the Service's ports.
    tcp: Vec<Arc<Sets>>,
    udp: Vec<Arc<Sets>>,
}

/// What stands behind an endpoint's address.
#[derive(Debug)]
enum Behind {
    Pod(Arc<PodInfo>),
    /// Something outside the mesh.
    Other,
    /// Nobody can say: a pod that is gone already, or one whose news come later than its EndpointSlice's.
    Unknown,
}

impl Memo {
    pub(crate) fn read(
        &mut self,
        services: &Same<Services>,
        slices: &[Arc<EndpointSlice>],
        pods: &Same<Pods>,
    ) -> Same<Known> {
        let slices = self.slices.read(slices);
        let from = (services.clone(), slices.clone(), pods.clone());
        self.last.get(from, || {
            let others = self.services.as_ref() != Some(services);
            if others {
                self.services = Some(services.clone());
                self.made = made(services, std::mem::take(&mut self.made));
                self.tcp = Arc::default();
                self.udp = Arc::default();
            }
            let (mut tcp, mut udp) = (Vec::new(), Vec::new());
            for made in &mut self.made {
                if made.renew(&slices, pods) || others {
                    tcp.extend(by_port(&made.service.ports, &made.tcp));
                    udp.extend(by_port(&made.service.udp, &made.udp));
                }
            }
            insert(&mut self.tcp, tcp);
            insert(&mut self.udp, udp);
            Known {
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
        };
        made.make();
        made
    }

    /// Whether the sets are others than they were.
    fn renew(&mut self, slices: &Slices, pods: &Pods) -> bool {
        let slices = slices.of(&self.service.id);
        let same = memo::same(slices, &self.slices)
            && endpoints(slices)
                .zip(&self.behind)
                .all(|((slice, named), behind)| behind.is(slice, named, pods));
        if same {
            return false;
        }
        self.slices = slices.to_vec();
        self.behind = endpoints(slices)
            .map(|(slice, named)| Behind::new(slice, named, pods))
            .collect();
        self.make()
    }

    /// As [`Made::renew`]. A set that says what it said is the same.
    fn make(&mut self) -> bool {
        let make = |ports: &[PortInfo], transport, before: &[Arc<Sets>]| {
            let sets = ports
                .iter()
                .enumerate()
                .map(|(place, port)| self.sets(port, transport).renewed(before.get(place)));
            sets.collect::<Vec<_>>()
        };
        let tcp = make(&self.service.ports, "TCP", &self.tcp);
        let udp = make(&self.service.udp, "UDP", &self.udp);
        let changed = !memo::same(&self.tcp, &tcp) || !memo::same(&self.udp, &udp);
        (self.tcp, self.udp) = (tcp, udp);
        changed
    }

    fn sets(&self, port: &PortInfo, transport: &str) -> Sets {
        let serving = self.serving(port, transport);
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
    fn serving(&self, port: &PortInfo, transport: &str) -> Vec<Serving<'_>> {
        let all = endpoints(&self.slices).zip(&self.behind);
        let serving = all.filter_map(|((slice, named), behind)| {
            let number = slice.target_port(&port.name, transport)?;
            let pod = match behind {
                Behind::Pod(pod) => Some(pod),
                Behind::Other => None,
                Behind::Unknown => return None,
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
        let endpoints = one_family(endpoints.collect(), self.service.prefers_ipv6);
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

impl Behind {
    fn new(slice: &SliceInfo, named: &Named, pods: &Pods) -> Self {
        if let Some(pod) = pods.at(&named.address) {
            return Self::Pod(Arc::clone(pod));
        }
        let is_on_host = |(namespace, name)| pods.get(namespace, name).is_some_and(|of| of.on_host);
        if slice.from_a_cluster || slice.pod(named).is_none_or(is_on_host) {
            Self::Other
        } else {
            Self::Unknown
        }
    }

    /// Whether that still stands there.
    fn is(&self, slice: &SliceInfo, named: &Named, pods: &Pods) -> bool {
        match (self, pods.at(&named.address)) {
            (Self::Pod(pod), Some(now)) => Arc::ptr_eq(pod, now),
            (Self::Pod(_), None) | (_, Some(_)) => false,
            (Self::Other, None) => matches!(Self::new(slice, named, pods), Self::Other),
            (Self::Unknown, None) => matches!(Self::new(slice, named, pods), Self::Unknown),
        }
    }
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
