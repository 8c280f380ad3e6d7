//! Decides which addresses of EndpointSlices traffic is sent to, and by whom.
//!
//! Whoever can write EndpointSlices chooses addresses. A Gateway must not send on their behalf to
//! what they could not reach themselves: pods of other namespaces without a ReferenceGrant, past
//! NetworkPolicies; nodes; addresses outside the cluster. A pod of the mesh sends on its own
//! behalf, from its own address, so it reaches whatever the Service reaches without a mesh, except
//! for what belongs to a node or a cloud. Labels and targetRefs of slices can be forged, so the
//! decision depends on the pod that has the address.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use weft_ir::ServiceKind;

use crate::cluster::pods::{PodInfo, Pods};
use crate::cluster::services::{ServiceAddressing, Services};
use crate::cluster::slices::{SliceEndpoint, SliceInfo};
use crate::input::EndpointRules;
use crate::references::grants::Grants;

/// Number of addresses that a message lists.
const NAMED: usize = 3;

/// What an endpoint's address belongs to.
#[derive(Clone, Debug)]
pub(crate) enum AddressOwner {
    /// A pod that may be sent to.
    Pod(Arc<PodInfo>),
    /// A pod of another namespace, without a ReferenceGrant. Clients in the mesh could send there
    /// themselves, but a Gateway must not.
    ForeignPod(Arc<PodInfo>),
    /// A pod of the slice's namespace that uses the host network.
    HostPod,
    /// An address that is not known in the cluster.
    External,
    /// A node without a pod of the slice's namespace on its host network.
    Node,
    /// Nothing is sent there.
    Denied(Denial),
    /// Not known: the pod is already gone, or its EndpointSlice arrived before it.
    Unknown,
}

/// Why nothing is sent to an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Denial {
    /// A special-purpose address of this kind.
    Special(&'static str),
    /// The settings of the mesh deny it.
    Settings,
    /// It is the cluster IP of a Service.
    ClusterIp,
    /// It belongs to a pod in this namespace. Applies to Gateways only.
    OtherNamespace(Arc<str>),
    /// Applies to Gateways only.
    External,
    /// Applies to Gateways only.
    Node,
}

/// Looks up the owners of addresses.
pub(crate) struct AddressOwners<'a> {
    pods: &'a Pods,
    grants: &'a Grants,
    rules: &'a EndpointRules,
    cluster_ips: HashSet<IpAddr>,
}

impl<'a> AddressOwners<'a> {
    pub(crate) fn new(
        pods: &'a Pods,
        services: &Services,
        grants: &'a Grants,
        rules: &'a EndpointRules,
    ) -> Self {
        let addresses = services.iter().flat_map(|of| match &of.addressing {
            ServiceAddressing::ClusterIp(addresses) => addresses.as_slice(),
            _ => &[],
        });
        Self {
            pods,
            grants,
            rules,
            cluster_ips: addresses.copied().collect(),
        }
    }

    pub(crate) fn owner(&self, slice: &SliceInfo, endpoint: &SliceEndpoint) -> AddressOwner {
        let address = endpoint.address.to_canonical();
        if let Some(denial) = self.denied(address) {
            return AddressOwner::Denied(denial);
        }
        let own = slice.namespace();
        if let Some(pod) = self.pods.at(&address) {
            let permitted = *pod.namespace == *own
                || self.grants.permits_endpoint(own, &pod.namespace, &pod.name);
            return match permitted {
                true => AddressOwner::Pod(Arc::clone(pod)),
                false => AddressOwner::ForeignPod(Arc::clone(pod)),
            };
        }
        let named_pod = slice.pod(endpoint);
        let on_host = named_pod
            .filter(|(namespace, _)| *namespace == own)
            .and_then(|(namespace, name)| self.pods.get(namespace, name))
            .is_some_and(|pod| pod.on_host);
        match self.pods.on_host(&address) {
            Some(namespaces) if namespaces.contains(own) => AddressOwner::HostPod,
            Some(_) => AddressOwner::Node,
            None if on_host => AddressOwner::HostPod,
            None if slice.from_other_cluster || named_pod.is_none() => AddressOwner::External,
            None => AddressOwner::Unknown,
        }
    }

    fn denied(&self, address: IpAddr) -> Option<Denial> {
        if let Some(kind) = special(address) {
            return Some(Denial::Special(kind));
        }
        if self.rules.denied.iter().any(|net| net.contains(&address)) {
            return Some(Denial::Settings);
        }
        self.cluster_ips
            .contains(&address)
            .then_some(Denial::ClusterIp)
    }
}

fn special(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(of) => of.is_link_local(),
        IpAddr::V6(of) => of.is_unicast_link_local(),
    };
    if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("a multicast address")
    } else if link_local {
        Some("a link-local address")
    } else {
        None
    }
}

impl PartialEq for AddressOwner {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod(one), Self::Pod(other))
            | (Self::ForeignPod(one), Self::ForeignPod(other)) => Arc::ptr_eq(one, other),
            (Self::Denied(one), Self::Denied(other)) => one == other,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }
}

impl AddressOwner {
    /// Returns why Gateways do not send there. This includes addresses that are left to clients of
    /// the mesh.
    pub(crate) fn denial_at_gateways(
        &self,
        kind: ServiceKind,
        rules: &EndpointRules,
    ) -> Option<Denial> {
        match self {
            Self::Denied(denial) => Some(denial.clone()),
            Self::ForeignPod(pod) => Some(Denial::OtherNamespace(Arc::clone(&pod.namespace))),
            Self::Node => Some(Denial::Node),
            // The endpoints of a ServiceImport are in other clusters.
            Self::External if kind == ServiceKind::Import => None,
            Self::External => (!rules.external_at_gateways).then_some(Denial::External),
            Self::Pod(_) | Self::HostPod | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special(kind) => write!(f, "is {kind}"),
            Self::Settings => f.write_str("is denied by the mesh settings (endpoints.denied)"),
            Self::ClusterIp => {
                f.write_str("is the cluster IP of a Service; refer to that Service instead")
            }
            Self::OtherNamespace(namespace) => write!(
                f,
                "belongs to a pod in namespace {namespace}, where no ReferenceGrant from group \
                 \"discovery.k8s.io\", kind EndpointSlice, to group \"\", kind Pod, permits it"
            ),
            Self::External => f.write_str(
                "is outside the cluster; Gateways send there only if gateways.externalEndpoints \
                 is set",
            ),
            Self::Node => {
                f.write_str("is a node on whose host network no pod of the namespace runs")
            }
        }
    }
}

/// Describes the excluded addresses of a Service for a message; `None` if there are none.
pub(crate) fn describe_denials(addresses: &BTreeMap<IpAddr, Denial>) -> Option<Arc<str>> {
    if addresses.is_empty() {
        return None;
    }
    let endpoint = addresses.iter().take(NAMED);
    let endpoint: Vec<String> = endpoint
        .map(|(address, denial)| format!("{address} {denial}"))
        .collect();
    let mut words = format!("{} excluded: {}", addresses.len(), endpoint.join("; "));
    if addresses.len() > NAMED {
        words += &format!("; and {} more", addresses.len() - NAMED);
    }
    Some(words.into())
}
