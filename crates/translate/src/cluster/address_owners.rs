//! Which addresses of EndpointSlices are sent to, and for whom.
//!
//! Whoever may write EndpointSlices chooses addresses. A Gateway must not send there for him what he could not send himself:
//! to pods of other namespaces without a ReferenceGrant, past their NetworkPolicies; to nodes; out of the cluster. A pod of
//! the mesh sends for itself, from its own address, so that it reaches what the Service reaches without a mesh, but for what
//! a node or a cloud keeps for itself. Labels and targetRefs of slices can be forged: what decides is whose pod has the address.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use weft_ir::ServiceKind;

use crate::cluster::pods::{PodInfo, Pods};
use crate::cluster::services::{Frontend, Services};
use crate::cluster::slices::{Named, SliceInfo};
use crate::input::EndpointRules;
use crate::references::grants::Grants;

/// Addresses that are named in a message.
const NAMED: usize = 3;

/// What stands behind an endpoint's address.
#[derive(Clone, Debug)]
pub(crate) enum Behind {
    Pod(Arc<PodInfo>),
    /// A pod of another namespace, which no ReferenceGrant permits. Clients in the mesh could send there themselves; what a
    /// Gateway may send to may not be chosen so.
    ForeignPod(Arc<PodInfo>),
    /// A pod of the slice's namespace that is on its node's network.
    HostPod,
    /// Nothing that is known of the cluster.
    External,
    /// A node, though no pod of the slice's namespace is on its network.
    Node,
    /// Nobody may be sent there.
    Barred(Bar),
    /// Nobody can say: a pod that is gone already, or one whose news come later than its EndpointSlice's.
    Unknown,
}

/// Why nobody may be sent to an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bar {
    /// It is of this kind.
    Special(&'static str),
    Denied,
    ClusterIp,
    /// A pod of this namespace has it. For Gateways only.
    OtherNamespace(Arc<str>),
    /// For Gateways only.
    External,
    /// For Gateways only.
    Node,
}

/// What addresses are looked up in.
pub(crate) struct Surroundings<'a> {
    pods: &'a Pods,
    grants: &'a Grants,
    rules: &'a EndpointRules,
    cluster_ips: HashSet<IpAddr>,
}

impl<'a> Surroundings<'a> {
    pub(crate) fn new(
        pods: &'a Pods,
        services: &Services,
        grants: &'a Grants,
        rules: &'a EndpointRules,
    ) -> Self {
        let addresses = services.iter().flat_map(|of| match &of.frontend {
            Frontend::ClusterIp(addresses) => addresses.as_slice(),
            _ => &[],
        });
        Self {
            pods,
            grants,
            rules,
            cluster_ips: addresses.copied().collect(),
        }
    }

    pub(crate) fn behind(&self, slice: &SliceInfo, named: &Named) -> Behind {
        let address = named.address.to_canonical();
        if let Some(bar) = self.barred(address) {
            return Behind::Barred(bar);
        }
        let own = slice.namespace();
        if let Some(pod) = self.pods.at(&address) {
            let permitted = *pod.namespace == *own
                || self.grants.permit_endpoint(own, &pod.namespace, &pod.name);
            return match permitted {
                true => Behind::Pod(Arc::clone(pod)),
                false => Behind::ForeignPod(Arc::clone(pod)),
            };
        }
        let named_pod = slice.pod(named);
        let on_host = named_pod
            .filter(|(namespace, _)| *namespace == own)
            .and_then(|(namespace, name)| self.pods.get(namespace, name))
            .is_some_and(|pod| pod.on_host);
        match self.pods.on_host(&address) {
            Some(namespaces) if namespaces.contains(own) => Behind::HostPod,
            Some(_) => Behind::Node,
            None if on_host => Behind::HostPod,
            None if slice.from_a_cluster || named_pod.is_none() => Behind::External,
            None => Behind::Unknown,
        }
    }

    fn barred(&self, address: IpAddr) -> Option<Bar> {
        if let Some(kind) = special(address) {
            return Some(Bar::Special(kind));
        }
        if self.rules.denied.iter().any(|net| net.contains(&address)) {
            return Some(Bar::Denied);
        }
        self.cluster_ips
            .contains(&address)
            .then_some(Bar::ClusterIp)
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

impl PartialEq for Behind {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod(one), Self::Pod(other))
            | (Self::ForeignPod(one), Self::ForeignPod(other)) => Arc::ptr_eq(one, other),
            (Self::Barred(one), Self::Barred(other)) => one == other,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }
}

impl Behind {
    /// Why Gateways do not send there: beside what nobody is sent to, what the mesh leaves to its own clients.
    pub(crate) fn bar_at_gateways(&self, kind: ServiceKind, rules: &EndpointRules) -> Option<Bar> {
        match self {
            Self::Barred(bar) => Some(bar.clone()),
            Self::ForeignPod(pod) => Some(Bar::OtherNamespace(Arc::clone(&pod.namespace))),
            Self::Node => Some(Bar::Node),
            // What a ServiceImport imports is in another cluster.
            Self::External if kind == ServiceKind::Import => None,
            Self::External => (!rules.external_at_gateways).then_some(Bar::External),
            Self::Pod(_) | Self::HostPod | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special(kind) => write!(f, "is {kind}"),
            Self::Denied => f.write_str("is denied by the mesh's settings (endpoints.denied)"),
            Self::ClusterIp => f.write_str("is the cluster IP of a Service: refer to that Service"),
            Self::OtherNamespace(namespace) => write!(
                f,
                "is a pod of namespace {namespace}, where no ReferenceGrant from group \"discovery.k8s.io\", kind \
                 EndpointSlice, to group \"\", kind Pod, permits it"
            ),
            Self::External => f.write_str(
                "is outside the cluster, where Gateways send only with gateways.externalEndpoints set",
            ),
            Self::Node => f.write_str("is a node, where no pod of the namespace is on its network"),
        }
    }
}

/// The addresses that are left out of a Service's endpoints, in words; `None`: there are none.
pub(crate) fn left_out(addresses: &BTreeMap<IpAddr, Bar>) -> Option<Arc<str>> {
    if addresses.is_empty() {
        return None;
    }
    let named = addresses.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(address, bar)| format!("{address} {bar}"))
        .collect();
    let mut words = format!("{} left out: {}", addresses.len(), named.join("; "));
    if addresses.len() > NAMED {
        words += &format!("; and {} more", addresses.len() - NAMED);
    }
    Some(words.into())
}
