//! The endpoints of every port of Services and ServiceImports, from EndpointSlices.
//!
//! A terminating pod counts as draining at once, without waiting for its EndpointSlices. An
//! endpoint whose pod is not known is left out: it cannot be known whether that pod is in the mesh,
//! and traffic to the mesh must not be sent in plain text. Pods of other clusters are not known
//! here: slices that name their source cluster are trusted, and addresses that belong to no pod of
//! this cluster get plain text.
//!
//! The sets of a Service are kept for as long as the Service, its slices and the pods behind them
//! are the same objects.
//!
//! Source: the EndpointSlice API, `discovery.k8s.io/v1`: absent `ready` means ready, and only the
//! first address of an endpoint is used.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Choice, Endpoint, EndpointSet, Hints, ServiceId, ServicePort};

use crate::cluster::address_owners::{AddressOwner, AddressOwners, Denial, describe_denials};
use crate::cluster::endpoint_sets::EndpointSets;
use crate::cluster::pods::{PodInfo, Pods};
use crate::cluster::services::{PortInfo, ServiceInfo, Services};
use crate::cluster::slices::{self, EndpointState, SliceEndpoint, SliceInfo, Slices};
use crate::input::EndpointRules;
use crate::limits::ENDPOINTS;
use crate::memo::{self, ByIdentity, Memo};
use crate::objects::EndpointSlice;
use crate::references::grants::Grants;

/// The endpoint sets of each Service port.
pub(crate) type Endpoints = HashMap<Arc<ServicePort>, Arc<EndpointSets>>;

/// For each terminating pod, by namespace and name: the Service ports that have an address of it
/// among their endpoints, ready or not.
pub(crate) type TerminatingPods = HashMap<(String, String), BTreeSet<ServicePort>>;

/// The endpoints of all Services.
#[derive(Debug)]
pub(crate) struct EndpointIndex {
    pub(crate) slices: ByIdentity<Slices>,
    /// Endpoint sets of TCP ports.
    pub(crate) tcp: Arc<Endpoints>,
    /// Sets of TCP ports that gateways see differently.
    pub(crate) at_gateways: Endpoints,
    /// Description of the addresses that gateways do not send to, by Service.
    pub(crate) left_out: HashMap<Arc<ServiceId>, Arc<str>>,
    /// Warnings about addresses that nothing is sent to.
    pub(crate) warnings: BTreeSet<String>,
    /// Endpoint sets of UDP ports.
    pub(crate) udp: Arc<Endpoints>,
    /// The Service ports of terminating pods.
    pub(crate) terminating: Arc<TerminatingPods>,
}

/// The last endpoint sets.
#[derive(Debug, Default)]
pub(crate) struct EndpointCache {
    slices: slices::SliceCache,
    services: Option<ByIdentity<Services>>,
    /// One entry for each Service.
    by_service: Vec<ServiceEndpoints>,
    /// The sets of all Services.
    tcp: Arc<Endpoints>,
    udp: Arc<Endpoints>,
    last: Memo<Inputs, EndpointIndex>,
}

type Inputs = (
    ByIdentity<Services>,
    ByIdentity<Slices>,
    ByIdentity<Pods>,
    ByIdentity<Grants>,
);

/// The endpoint sets of a Service, with the inputs that they were built from.
#[derive(Debug)]
struct ServiceEndpoints {
    service: Arc<ServiceInfo>,
    slices: Vec<Arc<SliceInfo>>,
    /// For each endpoint of each slice.
    owners: Vec<AddressOwner>,
    /// In the order of the Service's ports.
    tcp: Vec<Arc<EndpointSets>>,
    /// As gateways see them.
    udp: Vec<Arc<EndpointSets>>,
    /// The sets of `tcp` as gateways see them; empty if they are the same.
    at_gateways: Vec<Arc<EndpointSets>>,
    /// Description of the addresses that gateways do not send to.
    left_out: Option<Arc<str>>,
    warning: Option<String>,
}

impl EndpointCache {
    pub(crate) fn update(
        &mut self,
        services: &ByIdentity<Services>,
        slices: &[Arc<EndpointSlice>],
        pods: &ByIdentity<Pods>,
        grants: &ByIdentity<Grants>,
        rules: &EndpointRules,
    ) -> ByIdentity<EndpointIndex> {
        let slices = self.slices.update(slices);
        let from = (
            services.clone(),
            slices.clone(),
            pods.clone(),
            grants.clone(),
        );
        self.last.get(from, || {
            let owners = AddressOwners::new(pods, services, grants, rules);
            let changed_services = self.services.as_ref() != Some(services);
            if changed_services {
                self.services = Some(services.clone());
                self.by_service = by_service(services, std::mem::take(&mut self.by_service));
                self.tcp = Arc::default();
                self.udp = Arc::default();
            }
            let (mut tcp, mut udp) = (Vec::new(), Vec::new());
            for by_service in &mut self.by_service {
                if by_service.refresh(&slices, &owners, rules) || changed_services {
                    tcp.extend(by_port(&by_service.service.ports, &by_service.tcp));
                    udp.extend(by_port(&by_service.service.udp, &by_service.udp));
                }
            }
            insert(&mut self.tcp, tcp);
            insert(&mut self.udp, udp);
            let by_service = || self.by_service.iter();
            let at_gateways =
                by_service().flat_map(|of| by_port(&of.service.ports, &of.at_gateways));
            let left_out = by_service()
                .filter_map(|of| Some((Arc::clone(&of.service.id), of.left_out.clone()?)));
            EndpointIndex {
                at_gateways: at_gateways.collect(),
                left_out: left_out.collect(),
                warnings: by_service().filter_map(|of| of.warning.clone()).collect(),
                terminating: Arc::new(terminating(services, &slices, pods)),
                slices,
                tcp: Arc::clone(&self.tcp),
                udp: Arc::clone(&self.udp),
            }
        })
    }
}

/// Returns one entry for each Service, reusing those of Services that did not change.
fn by_service(services: &Services, before: Vec<ServiceEndpoints>) -> Vec<ServiceEndpoints> {
    let key_of = |service: &Arc<ServiceInfo>| Arc::as_ptr(service).addr();
    let before = before
        .into_iter()
        .map(|by_service| (key_of(&by_service.service), by_service));
    let mut before: HashMap<usize, ServiceEndpoints> = before.collect();
    let by_service = services.iter().map(|service| {
        let before = before.remove(&key_of(service));
        before.unwrap_or_else(|| ServiceEndpoints::new(service))
    });
    by_service.collect()
}

fn by_port(
    ports: &[PortInfo],
    sets: &[Arc<EndpointSets>],
) -> impl Iterator<Item = (Arc<ServicePort>, Arc<EndpointSets>)> {
    let ids = ports.iter().map(|port| Arc::clone(&port.id));
    ids.zip(sets.iter().cloned())
}

/// A mesh that still holds the map is not affected.
fn insert(all: &mut Arc<Endpoints>, sets: Vec<(Arc<ServicePort>, Arc<EndpointSets>)>) {
    if !sets.is_empty() {
        Arc::make_mut(all).extend(sets);
    }
}

/// Returns the terminating pods, including those without a Service.
fn terminating(services: &Services, slices: &Slices, pods: &Pods) -> TerminatingPods {
    let name = |pod: &PodInfo| (pod.namespace.to_string(), pod.name.to_string());
    let mut terminating: TerminatingPods = pods
        .terminating()
        .map(|pod| (name(pod), BTreeSet::new()))
        .collect();
    if terminating.is_empty() {
        return terminating;
    }
    for (id, slices) in slices.iter() {
        let ports = services.get(id).map_or(&[][..], |info| &info.ports);
        for (_, endpoint) in endpoints(slices) {
            if let Some(pod) = pods.at(&endpoint.address).filter(|pod| pod.terminating) {
                let ports = ports.iter().map(|port| port.id.as_ref().clone());
                terminating.entry(name(pod)).or_default().extend(ports);
            }
        }
    }
    terminating
}

/// Returns the endpoints of all slices, each with its slice.
fn endpoints(slices: &[Arc<SliceInfo>]) -> impl Iterator<Item = (&SliceInfo, &SliceEndpoint)> {
    let slices = slices.iter().map(Arc::as_ref);
    slices.flat_map(|slice| {
        slice
            .endpoints
            .iter()
            .map(move |endpoint| (slice, endpoint))
    })
}

impl ServiceEndpoints {
    /// Creates the entry of a Service, without endpoints.
    fn new(service: &Arc<ServiceInfo>) -> Self {
        let mut by_service = Self {
            service: Arc::clone(service),
            slices: Vec::new(),
            owners: Vec::new(),
            tcp: Vec::new(),
            udp: Vec::new(),
            at_gateways: Vec::new(),
            left_out: None,
            warning: None,
        };
        by_service.rebuild(&EndpointRules::default());
        by_service
    }

    /// Rebuilds the sets if the slices or the owners of their addresses changed. Returns true if
    /// the sets changed.
    fn refresh(
        &mut self,
        slices: &Slices,
        owners: &AddressOwners<'_>,
        rules: &EndpointRules,
    ) -> bool {
        let slices = slices.of(&self.service.id);
        let now = endpoints(slices).map(|(slice, endpoint)| owners.owner(slice, endpoint));
        let now: Vec<AddressOwner> = now.collect();
        if memo::all_ptr_eq(slices, &self.slices) && now == self.owners {
            return false;
        }
        self.slices = slices.to_vec();
        self.owners = now;
        self.rebuild(rules)
    }

    /// Rebuilds the sets, keeping the identity of those that are equal. Returns true if any
    /// changed.
    fn rebuild(&mut self, rules: &EndpointRules) -> bool {
        let kind = self.service.id.kind;
        let denied_at_gateways = |owners: &AddressOwner| owners.denial_at_gateways(kind, rules);
        let denied_everywhere = |owners: &AddressOwner| match owners {
            AddressOwner::Denied(denial) => Some(denial.clone()),
            _ => None,
        };
        let (at_gateways, everywhere) = (
            self.denied(denied_at_gateways),
            self.denied(denied_everywhere),
        );
        let rebuild = |ports: &[PortInfo], transport, denied, before: &[Arc<EndpointSets>]| {
            let sets = ports.iter().enumerate().map(|(position, port)| {
                let sets = self.sets(port, transport, denied);
                sets.interned(before.get(position))
            });
            sets.collect::<Vec<_>>()
        };
        let tcp = rebuild(&self.service.ports, "TCP", &everywhere, &self.tcp);
        // Only gateways send datagrams.
        let udp = rebuild(&self.service.udp, "UDP", &at_gateways, &self.udp);
        let changed_services = at_gateways.len() > everywhere.len();
        let ports: &[PortInfo] = if changed_services {
            &self.service.ports
        } else {
            &[]
        };
        let at_gateway_sets = rebuild(ports, "TCP", &at_gateways, &self.at_gateways);
        let changed = !memo::all_ptr_eq(&self.tcp, &tcp) || !memo::all_ptr_eq(&self.udp, &udp);
        (self.tcp, self.udp, self.at_gateways) = (tcp, udp, at_gateway_sets);
        self.left_out = describe_denials(&at_gateways);
        self.warning = self.warning(&everywhere);
        changed
    }

    /// Returns the addresses for which `denial` returns a reason.
    fn denied(&self, denial: impl Fn(&AddressOwner) -> Option<Denial>) -> BTreeMap<IpAddr, Denial> {
        let all = endpoints(&self.slices).zip(&self.owners);
        let denied =
            all.filter_map(|((_, endpoint), owners)| Some((endpoint.address, denial(owners)?)));
        denied.collect()
    }

    fn warning(&self, denied: &BTreeMap<IpAddr, Denial>) -> Option<String> {
        let id = &self.service.id;
        let most = self.owners.len();
        let denied =
            describe_denials(denied).map(|words| format!("endpoints of Service {id}: {words}"));
        let many = (most > ENDPOINTS).then(|| {
            format!(
                "Service {id} has {most} endpoints; only the first {ENDPOINTS} of a port, in the \
             order of their addresses, are used"
            )
        });
        denied.or(many)
    }

    /// Builds the sets of a port, without the denied addresses.
    fn sets(
        &self,
        port: &PortInfo,
        transport: &str,
        denied: &BTreeMap<IpAddr, Denial>,
    ) -> EndpointSets {
        let serving = self.serving(port, transport, denied);
        let whole = self.endpoint_set(port, transport, &serving);
        if !self.service.local {
            return EndpointSets::cluster_wide(whole);
        }
        let mut by_node: BTreeMap<String, Vec<ServingEndpoint<'_>>> = BTreeMap::new();
        for one in serving {
            let node = one.slice.node(one.endpoint);
            // An endpoint without a known node is local to no client.
            if !node.is_empty() {
                by_node.entry(node.to_owned()).or_default().push(one);
            }
        }
        let sets = by_node.into_iter().map(|(node, serving)| {
            let mut set = self.endpoint_set(port, transport, &serving);
            // The internal traffic policy takes precedence over topology hints.
            set.choice.hints.clear();
            (node, set)
        });
        EndpointSets::local(whole, sets.collect())
    }

    /// Returns the endpoints that can be used.
    fn serving(
        &self,
        port: &PortInfo,
        transport: &str,
        denied: &BTreeMap<IpAddr, Denial>,
    ) -> Vec<ServingEndpoint<'_>> {
        let all = endpoints(&self.slices).zip(&self.owners);
        let serving = all.filter_map(|((slice, endpoint), owners)| {
            let number = slice.target_port(&port.name, transport)?;
            if denied.contains_key(&endpoint.address) {
                return None;
            }
            let pod = match owners {
                AddressOwner::Pod(pod) | AddressOwner::ForeignPod(pod) => Some(pod),
                AddressOwner::HostPod | AddressOwner::External | AddressOwner::Node => None,
                AddressOwner::Denied(_) | AddressOwner::Unknown => return None,
            };
            let ready = match endpoint.state {
                EndpointState::Ready => pod.is_none_or(|pod| !pod.terminating),
                EndpointState::Draining => false,
                EndpointState::NotServing => return None,
            };
            Some(ServingEndpoint {
                slice,
                endpoint,
                address: SocketAddr::new(endpoint.address, number),
                pod,
                ready,
            })
        });
        serving.collect()
    }

    /// Builds the set of the ready endpoints, or of the draining ones if none is ready.
    fn endpoint_set(
        &self,
        port: &PortInfo,
        transport: &str,
        serving: &[ServingEndpoint<'_>],
    ) -> EndpointSet {
        let any_ready = serving.iter().any(|one| one.ready);
        let chosen = serving.iter().filter(|one| one.ready == any_ready);
        let chosen: HashMap<SocketAddr, &ServingEndpoint<'_>> =
            chosen.map(|one| (one.address, one)).collect();
        // The mesh does not carry datagrams.
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

/// Returns the hints of the chosen endpoints. An address in several slices has the hints of all of
/// them.
fn hints(serving: &[ServingEndpoint<'_>], endpoints: &[Endpoint]) -> BTreeMap<SocketAddr, Hints> {
    let mut all: BTreeMap<SocketAddr, Hints> = BTreeMap::new();
    for one in serving {
        if let Some(Hints { nodes, zones }) = one.slice.hints(one.endpoint) {
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

/// An endpoint that can be used.
struct ServingEndpoint<'a> {
    slice: &'a SliceInfo,
    endpoint: &'a SliceEndpoint,
    address: SocketAddr,
    pod: Option<&'a Arc<PodInfo>>,
    /// Otherwise it is draining.
    ready: bool,
}

/// Pods of a dual-stack Service appear once for each family: keeps those of the Service's first
/// family, or all if there are none.
fn one_family(mut endpoints: Vec<Endpoint>, ipv6: bool) -> Vec<Endpoint> {
    let preferred = |one: &Endpoint| one.address.is_ipv6() == ipv6;
    if endpoints.iter().any(preferred) {
        endpoints.retain(preferred);
    }
    endpoints.sort_unstable_by_key(|one| one.address);
    endpoints
}
