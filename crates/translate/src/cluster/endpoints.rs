//! The endpoints of every port of Services and ServiceImports, from EndpointSlices.
//!
//! A terminating pod counts as draining at once, without waiting for its EndpointSlices. An
//! endpoint whose pod is not known is left out: it cannot be known whether that pod is in the mesh,
//! and traffic to the mesh must not be sent in plain text. Pods of other clusters are not known
//! here: slices that name their source cluster are trusted, and addresses that belong to no pod of
//! this cluster get plain text.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{ServiceId, ServicePort};

use crate::cluster::address_owners::AddressOwners;
use crate::cluster::endpoint_sets::EndpointSets;
use crate::cluster::pods::{PodInfo, Pods};
use crate::cluster::service_endpoints::{ServiceEndpoints, endpoints};
use crate::cluster::services::{PortInfo, ServiceInfo, Services};
use crate::cluster::slices::{self, Slices};
use crate::input::EndpointRules;
use crate::memo::{ByIdentity, Memo};
use crate::objects::EndpointSlice;
use crate::references::grants::Grants;

pub(crate) use crate::cluster::service_endpoints::TrafficPolicies;

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
    ByIdentity<TrafficPolicies>,
);

impl EndpointCache {
    pub(crate) fn update(
        &mut self,
        services: &ByIdentity<Services>,
        slices: &[Arc<EndpointSlice>],
        pods: &ByIdentity<Pods>,
        (grants, traffic): (&ByIdentity<Grants>, &ByIdentity<TrafficPolicies>),
        rules: &EndpointRules,
    ) -> ByIdentity<EndpointIndex> {
        let slices = self.slices.update(slices);
        let from = (
            services.clone(),
            slices.clone(),
            pods.clone(),
            grants.clone(),
            traffic.clone(),
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
                if by_service.refresh(&slices, &owners, traffic, rules) || changed_services {
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
