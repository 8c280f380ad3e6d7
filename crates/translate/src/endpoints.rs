//! The endpoints of every port of Services and ServiceImports, from EndpointSlices.
//!
//! A pod that is being deleted counts as draining at once, without waiting for its EndpointSlices. An endpoint whose
//! pod is not known is left out: without its pod nobody can say whether it is in the mesh, and traffic to the mesh must
//! not go in plain text. Pods of other clusters are known to nobody here: slices that say from which cluster they come
//! are taken at their word, and what is no address of a pod of this cluster gets plain text.
//!
//! Source: the EndpointSlice API, `discovery.k8s.io/v1`: absent `ready` counts as ready; only the first address of an
//! endpoint counts. The Multi-Cluster Services API, KEP-1645: the labels of imported slices.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Endpoint, EndpointSet, ServiceId, ServicePort};

use crate::objects::{
    EndpointAddress, EndpointConditions, EndpointSlice, Meta, SlicePort, TargetRef,
};
use crate::pods::Pods;
use crate::services::{PortInfo, ServiceInfo, Services, port_number};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const IMPORT_NAME: &str = "multicluster.kubernetes.io/service-name";
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

/// Whose endpoints a slice holds: a Service's, a ServiceImport's, or both.
fn owners(slice: &EndpointSlice) -> impl Iterator<Item = ServiceId> {
    let Meta {
        namespace, labels, ..
    } = &slice.metadata;
    let service = labels.get(SERVICE_NAME);
    let import = labels.get(IMPORT_NAME);
    service
        .map(|name| ServiceId::new(namespace, name))
        .into_iter()
        .chain(import.map(|name| ServiceId::import(namespace, name)))
}

/// The Service ports that name an address of a pod among their endpoints, ready or not, for each pod that is being
/// deleted, by namespace and name.
pub(crate) type Leaving = HashMap<(String, String), BTreeSet<ServicePort>>;

/// The pods that are being deleted, those without a Service too.
pub(crate) fn leaving(services: &Services, slices: &[Arc<EndpointSlice>], pods: &Pods) -> Leaving {
    let mut leaving: Leaving = pods
        .terminating
        .values()
        .map(|pod| (pod.clone(), BTreeSet::new()))
        .collect();
    if leaving.is_empty() {
        return leaving;
    }
    for slice in slices {
        let addresses = slice.endpoints.iter().flat_map(|one| one.addresses.first());
        let leave: Vec<_> = addresses
            .filter_map(|text| pods.terminating.get(&text.parse::<IpAddr>().ok()?))
            .collect();
        for id in owners(slice).filter(|_| !leave.is_empty()) {
            let ports = services.get(&id).map_or(&[][..], |info| &info.ports);
            let ports = ports.iter().map(|port| ServicePort {
                service: id.clone(),
                port: port.number,
            });
            for pod in &leave {
                leaving
                    .entry((*pod).clone())
                    .or_default()
                    .extend(ports.clone());
            }
        }
    }
    leaving
}

pub(crate) type Endpoints = HashMap<ServicePort, Arc<EndpointSet>>;

/// Of TCP ports, and those of UDP ports besides.
pub(crate) fn index(
    services: &Services,
    slices: &[Arc<EndpointSlice>],
    pods: &Pods,
) -> (Endpoints, Endpoints) {
    let mut by_service: HashMap<ServiceId, Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        for id in owners(slice) {
            by_service.entry(id).or_default().push(slice);
        }
    }
    let none = Vec::new();
    let mut tcp = HashMap::new();
    let mut udp = HashMap::new();
    for (id, service) in services.iter() {
        let slices = by_service.get(id).unwrap_or(&none);
        let add = |sets: &mut Endpoints, port: &PortInfo, transport: &'static str| {
            let id = ServicePort {
                service: id.clone(),
                port: port.number,
            };
            let set = endpoint_set(id.clone(), (port, transport), service, slices, pods);
            sets.insert(id, Arc::new(set));
        };
        for port in &service.ports {
            add(&mut tcp, port, "TCP");
        }
        for port in &service.udp {
            add(&mut udp, port, "UDP");
        }
    }
    (tcp, udp)
}

fn endpoint_set(
    id: ServicePort,
    (port, transport): (&PortInfo, &str),
    service: &ServiceInfo,
    slices: &[&EndpointSlice],
    pods: &Pods,
) -> EndpointSet {
    let mut ready = BTreeSet::new();
    let mut draining = BTreeSet::new();
    for slice in slices {
        let EndpointSlice {
            metadata,
            address_type: _,
            ports,
            endpoints,
        } = slice;
        let Some(number) = target_port(ports, &port.name, transport) else {
            continue;
        };
        let from_a_cluster = metadata.labels.contains_key(SOURCE_CLUSTER);
        for endpoint in endpoints {
            let EndpointAddress {
                addresses,
                conditions,
                target_ref,
            } = endpoint;
            // Names (of slices of type FQDN) do not parse.
            let Some(Ok(address)) = addresses.first().map(|text| text.parse::<IpAddr>()) else {
                continue;
            };
            if !from_a_cluster && !is_known(target_ref.as_ref(), &address, pods) {
                continue;
            }
            let terminating = pods.terminating.contains_key(&address);
            let address = SocketAddr::new(address, number);
            match state(conditions) {
                State::Ready if terminating => draining.insert(address),
                State::Ready => ready.insert(address),
                State::Draining => draining.insert(address),
                State::Away => false,
            };
        }
    }
    let chosen = if ready.is_empty() { draining } else { ready };
    let endpoints = one_family(chosen, service.prefers_ipv6)
        .map(|address| Endpoint {
            address,
            // The mesh carries no datagrams.
            identity: pods
                .identity(&address.ip())
                .filter(|_| transport == "TCP")
                .cloned(),
        })
        .collect();
    EndpointSet {
        id,
        protocol: port.protocol,
        endpoints,
        tls: None,
    }
}

/// A pod of a dual-stack Service is there once for each family: those of the Service's first family, else all.
fn one_family(addresses: BTreeSet<SocketAddr>, ipv6: bool) -> impl Iterator<Item = SocketAddr> {
    let preferred = addresses.iter().any(|address| address.is_ipv6() == ipv6);
    addresses
        .into_iter()
        .filter(move |address| !preferred || address.is_ipv6() == ipv6)
}

/// False for a pod that is gone already, and for one whose news come later than its EndpointSlice's.
fn is_known(target: Option<&TargetRef>, address: &IpAddr, pods: &Pods) -> bool {
    let Some(TargetRef {
        kind,
        namespace,
        name,
    }) = target
    else {
        return true;
    };
    kind != "Pod"
        || pods.by_address.contains_key(address)
        || pods.on_host.contains(&(namespace.clone(), name.clone()))
}

/// The slice's port of the Service port's name.
fn target_port(ports: &[SlicePort], wanted: &str, transport: &str) -> Option<u16> {
    ports.iter().find_map(|entry| {
        let SlicePort {
            name,
            protocol,
            port,
        } = entry;
        let protocol = if protocol.is_empty() { "TCP" } else { protocol };
        (protocol == transport && name == wanted).then(|| port_number((*port)?))?
    })
}

enum State {
    Ready,
    /// Ending, yet still serving: used when nothing else is ready.
    Draining,
    Away,
}

fn state(conditions: &EndpointConditions) -> State {
    let EndpointConditions {
        ready,
        serving,
        terminating,
    } = *conditions;
    let ready = ready.unwrap_or(true);
    if ready {
        State::Ready
    } else if serving.unwrap_or(ready) && terminating.unwrap_or(false) {
        State::Draining
    } else {
        State::Away
    }
}
