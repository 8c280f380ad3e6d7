//! The endpoint sets of one Service.
//!
//! They are kept for as long as the Service, its slices and the pods behind them are the same
//! objects.
//!
//! Source: the EndpointSlice API, `discovery.k8s.io/v1`: absent `ready` means ready, and only the
//! first address of an endpoint is used.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Choice, Endpoint, EndpointSet, Hints, ServicePort, TrafficPolicy, ZonePreference};

use crate::cluster::address_owners::{AddressOwner, AddressOwners, Denial, describe_denials};
use crate::cluster::endpoint_sets::EndpointSets;
use crate::cluster::pods::PodInfo;
use crate::cluster::services::{PortInfo, ServiceInfo};
use crate::cluster::slices::{EndpointState, SliceEndpoint, SliceInfo, Slices};
use crate::input::EndpointRules;
use crate::limits::ENDPOINTS;
use crate::memo;

/// The effective TrafficPolicy of each TCP port that has one.
pub(crate) type TrafficPolicies = HashMap<Arc<ServicePort>, Arc<TrafficPolicy>>;

/// The endpoint sets of a Service, with the inputs that they were built from.
#[derive(Debug)]
pub(super) struct ServiceEndpoints {
    pub(super) service: Arc<ServiceInfo>,
    slices: Vec<Arc<SliceInfo>>,
    /// For each endpoint of each slice.
    owners: Vec<AddressOwner>,
    /// Of the ports that have one.
    traffic: TrafficPolicies,
    /// In the order of the Service's ports.
    pub(super) tcp: Vec<Arc<EndpointSets>>,
    /// As gateways see them.
    pub(super) udp: Vec<Arc<EndpointSets>>,
    /// The sets of `tcp` as gateways see them; empty if they are the same.
    pub(super) at_gateways: Vec<Arc<EndpointSets>>,
    /// Description of the addresses that gateways do not send to.
    pub(super) left_out: Option<Arc<str>>,
    pub(super) warning: Option<String>,
}

/// Returns the endpoints of all slices, each with its slice.
pub(super) fn endpoints(
    slices: &[Arc<SliceInfo>],
) -> impl Iterator<Item = (&SliceInfo, &SliceEndpoint)> {
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
    pub(super) fn new(service: &Arc<ServiceInfo>) -> Self {
        let mut by_service = Self {
            service: Arc::clone(service),
            slices: Vec::new(),
            owners: Vec::new(),
            traffic: TrafficPolicies::new(),
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
    pub(super) fn refresh(
        &mut self,
        slices: &Slices,
        owners: &AddressOwners<'_>,
        traffic: &TrafficPolicies,
        rules: &EndpointRules,
    ) -> bool {
        let slices = slices.of(&self.service.id);
        let now = endpoints(slices).map(|(slice, endpoint)| owners.owner(slice, endpoint));
        let now: Vec<AddressOwner> = now.collect();
        let traffic = self.policies(traffic);
        let same_traffic = traffic == self.traffic;
        if memo::all_ptr_eq(slices, &self.slices) && now == self.owners && same_traffic {
            return false;
        }
        self.slices = slices.to_vec();
        self.owners = now;
        self.traffic = traffic;
        self.rebuild(rules)
    }

    /// Returns the policies of the Service's own ports.
    fn policies(&self, all: &TrafficPolicies) -> TrafficPolicies {
        if all.is_empty() {
            return TrafficPolicies::new();
        }
        let ports = self.service.ports.iter();
        let own = ports.filter_map(|port| {
            let policy = all.get(&port.id)?;
            Some((Arc::clone(&port.id), Arc::clone(policy)))
        });
        own.collect()
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
            // The internal traffic policy takes precedence over topology hints. Zones that a
            // policy asks for are those of the node.
            if self.zones(port) == ZonePreference::Service {
                set.choice.hints.clear();
            }
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

    /// Returns which endpoints of a port its policy prefers.
    fn zones(&self, port: &PortInfo) -> ZonePreference {
        let policy = self.traffic.get(&port.id);
        let balancing = policy.and_then(|of| of.load_balancing.as_ref());
        balancing.map_or_else(ZonePreference::default, |of| of.zones)
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
        let zones = match meshed {
            true => self.zones(port),
            false => ZonePreference::Service,
        };
        let choice = Choice {
            hints: match zones {
                ZonePreference::Service => hints(serving, &endpoints, SliceInfo::hints),
                ZonePreference::Prefer | ZonePreference::Require => {
                    hints(serving, &endpoints, SliceInfo::zone)
                }
                ZonePreference::Disabled => BTreeMap::new(),
            },
            affinity: self.service.affinity,
        };
        let traffic = self.traffic.get(&port.id).filter(|_| meshed);
        EndpointSet {
            choice,
            traffic: traffic.cloned(),
            ..EndpointSet::new(port.id.as_ref().clone(), port.protocol, endpoints)
        }
    }
}

/// Returns the hints of the chosen endpoints, which `of` gives. An address in several slices has
/// the hints of all of them.
fn hints(
    serving: &[ServingEndpoint<'_>],
    endpoints: &[Endpoint],
    of: impl Fn(&SliceInfo, &SliceEndpoint) -> Option<Hints>,
) -> BTreeMap<SocketAddr, Hints> {
    let mut all: BTreeMap<SocketAddr, Hints> = BTreeMap::new();
    for one in serving {
        if let Some(Hints { nodes, zones }) = of(one.slice, one.endpoint) {
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
