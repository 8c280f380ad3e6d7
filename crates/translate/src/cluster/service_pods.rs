//! The pods that a Service leads to, and the ports of them.

use std::collections::BTreeSet;

use crate::cluster::pods::PodInfo;
use crate::cluster::services::{ServiceAddressing, ServiceInfo};
use crate::cluster::slices::{SliceInfo, Slices};
use crate::objects::{PortRef, ServicePortSpec, port_number};

/// Returns the TCP ports of a Service; with a section, the one of that name or number.
pub(crate) fn wanted<'s>(
    service: &'s ServiceInfo,
    section: Option<&str>,
) -> Vec<&'s ServicePortSpec> {
    let Some(object) = &service.object else {
        return Vec::new();
    };
    let ports = object.spec.ports.iter();
    let ports = ports.filter(|port| matches!(&*port.protocol, "" | "TCP"));
    let is_section = |port: &&ServicePortSpec| {
        section.is_none_or(|section| port.name == section || port.port.to_string() == section)
    };
    ports.filter(is_section).collect()
}

/// Returns the ports of a pod that a Service, or one of its ports, leads to; none mean all. Returns
/// `None` if it does not lead to the pod. The pod must be in the Service's namespace.
pub(crate) fn service_ports(
    service: &ServiceInfo,
    section: Option<&str>,
    pod: &PodInfo,
    slices: &Slices,
) -> Option<Vec<u16>> {
    let object = service.object.as_ref()?;
    if service.addressing == ServiceAddressing::ExternalName {
        return None;
    }
    let selector = &object.spec.selector;
    let slices = match selector.is_empty() {
        true => Some(slices.of(&service.id)),
        false => None,
    };
    let labels = &pod.object.metadata.labels;
    let leads = match slices {
        None => selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value)),
        Some(slices) => slices.iter().any(|slice| has_pod(slice, pod)),
    };
    if !leads {
        return None;
    }
    // DNS leads to every port of the pods of a headless Service without ports.
    if object.spec.ports.is_empty() && section.is_none() {
        return Some(Vec::new());
    }
    let mut ports = BTreeSet::new();
    for port in wanted(service, section) {
        match slices {
            None => ports.extend(target_ports(port, pod)),
            Some(slices) => {
                let of_pod = slices.iter().filter(|slice| has_pod(slice, pod));
                ports.extend(of_pod.filter_map(|slice| slice.target_port(&port.name, "TCP")));
            }
        }
        // Clients of a headless Service connect to the pod by the Service's own port, too.
        if service.addressing == ServiceAddressing::Headless {
            ports.extend(port_number(port.port));
        }
    }
    (!ports.is_empty()).then(|| ports.into_iter().collect())
}

fn has_pod(slice: &SliceInfo, pod: &PodInfo) -> bool {
    slice.endpoints.iter().any(|endpoint| {
        slice.pod(endpoint) == Some((&*pod.namespace, &*pod.name))
            || pod.addresses.contains(&endpoint.address)
    })
}

/// A name can stand for ports of several containers.
fn target_ports(port: &ServicePortSpec, pod: &PodInfo) -> Vec<u16> {
    match &port.target_port {
        None => port_number(port.port).into_iter().collect(),
        Some(PortRef::Number(number)) => port_number(*number).into_iter().collect(),
        Some(PortRef::Name(name)) => {
            let spec = &pod.object.spec;
            let containers = spec.containers.iter().chain(&spec.init_containers);
            let ports = containers.flat_map(|of| &of.ports);
            let named = ports.filter(|port| port.name == *name);
            named
                .filter_map(|port| port_number(port.container_port))
                .collect()
        }
    }
}
