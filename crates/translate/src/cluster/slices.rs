//! EndpointSlices by the Service or ServiceImport that they belong to.
//!
//! This module does not depend on Services or pods. A result is kept for as long as the slice is
//! the same object.
//!
//! Source: the Multi-Cluster Services API, KEP-1645: the labels of imported slices.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_ir::{Hints, ServiceId};

use crate::memo::{ByIdentity, Memo, ObjectMemo};
use crate::objects::port_number;
use crate::objects::{
    EndpointAddress, EndpointConditions, EndpointHints, EndpointSlice, HintFor, Meta, SlicePort,
    TargetRef,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const IMPORT_NAME: &str = "multicluster.kubernetes.io/service-name";
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

/// Every slice that belongs to a Service or a ServiceImport.
#[derive(Debug)]
pub(crate) struct Slices {
    by_owner: HashMap<Arc<ServiceId>, Vec<Arc<SliceInfo>>>,
}

/// An EndpointSlice.
#[derive(Debug)]
pub(crate) struct SliceInfo {
    slice: Arc<EndpointSlice>,
    /// The Service, the ServiceImport, or both.
    owners: Vec<Arc<ServiceId>>,
    /// Whether it names the cluster that it was imported from.
    pub(crate) from_other_cluster: bool,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

/// An endpoint with an address.
#[derive(Debug)]
pub(crate) struct SliceEndpoint {
    /// Position in the slice's list.
    position: usize,
    pub(crate) address: IpAddr,
    pub(crate) state: EndpointState,
}

/// Whether an endpoint can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointState {
    Ready,
    /// Terminating but still serving: used if no endpoint is ready.
    Draining,
    /// Not to be used.
    NotServing,
}

/// The last state of slices.
#[derive(Debug, Default)]
pub(crate) struct SliceCache {
    slices: ObjectMemo<EndpointSlice, (), Arc<SliceInfo>>,
    last: Memo<Vec<ByIdentity<EndpointSlice>>, Slices>,
}

impl SliceCache {
    pub(crate) fn update(&mut self, slices: &[Arc<EndpointSlice>]) -> ByIdentity<Slices> {
        self.last.get(ByIdentity::all(slices), || {
            let slices = self
                .slices
                .map(slices, (), |slice| Arc::new(SliceInfo::new(slice)));
            let mut by_owner: HashMap<_, Vec<_>> = HashMap::new();
            for slice in slices {
                for owner in &slice.owners {
                    let of_owner = by_owner.entry(Arc::clone(owner)).or_default();
                    of_owner.push(Arc::clone(&slice));
                }
            }
            Slices { by_owner }
        })
    }
}

impl Slices {
    pub(crate) fn of(&self, owner: &ServiceId) -> &[Arc<SliceInfo>] {
        self.by_owner.get(owner).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServiceId, &[Arc<SliceInfo>])> {
        let all = self.by_owner.iter();
        all.map(|(owner, slices)| (owner.as_ref(), slices.as_slice()))
    }
}

impl SliceInfo {
    fn new(slice: &Arc<EndpointSlice>) -> Self {
        let Meta {
            namespace, labels, ..
        } = &slice.metadata;
        let service = labels.get(SERVICE_NAME);
        let service = service.map(|name| ServiceId::new(namespace, name));
        let import = labels.get(IMPORT_NAME);
        let import = import.map(|name| ServiceId::import(namespace, name));
        Self {
            owners: service.into_iter().chain(import).map(Arc::new).collect(),
            from_other_cluster: labels.contains_key(SOURCE_CLUSTER),
            endpoints: (0..)
                .zip(&slice.endpoints)
                .filter_map(SliceEndpoint::new)
                .collect(),
            slice: Arc::clone(slice),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.slice.metadata.namespace
    }

    /// Returns namespace and name of the pod that the endpoint refers to.
    pub(crate) fn pod(&self, of: &SliceEndpoint) -> Option<(&str, &str)> {
        let TargetRef {
            kind,
            namespace,
            name,
        } = self.slice.endpoints.get(of.position)?.target_ref.as_ref()?;
        (kind == "Pod").then_some((namespace, name))
    }

    /// Returns the node that the endpoint runs on; empty if not known.
    pub(crate) fn node(&self, of: &SliceEndpoint) -> &str {
        let endpoint = self.slice.endpoints.get(of.position);
        endpoint.map_or("", |endpoint| &endpoint.node_name)
    }

    /// Returns the zone that the endpoint is in, as hints for the clients there.
    pub(crate) fn zone(&self, of: &SliceEndpoint) -> Option<Hints> {
        let zone = &self.slice.endpoints.get(of.position)?.zone;
        (!zone.is_empty()).then(|| Hints {
            zones: [zone.clone()].into(),
            ..Hints::default()
        })
    }

    /// Returns the topology hints of the endpoint. Node names of other clusters are ignored.
    pub(crate) fn hints(&self, of: &SliceEndpoint) -> Option<Hints> {
        let EndpointHints {
            for_zones,
            for_nodes,
        } = &self.slice.endpoints.get(of.position)?.hints;
        let names = |all: &[HintFor]| all.iter().map(|of| of.name.clone()).collect();
        let hints = Hints {
            nodes: names(if self.from_other_cluster {
                &[]
            } else {
                for_nodes
            }),
            zones: names(for_zones),
        };
        (hints != Hints::default()).then_some(hints)
    }

    /// Returns the target port of the Service port with this name.
    pub(crate) fn target_port(&self, wanted: &str, transport: &str) -> Option<u16> {
        self.slice.ports.iter().find_map(|entry| {
            let SlicePort {
                name,
                protocol,
                port,
            } = entry;
            let protocol = if protocol.is_empty() { "TCP" } else { protocol };
            (protocol == transport && name == wanted).then(|| port_number((*port)?))?
        })
    }
}

impl SliceEndpoint {
    /// Host names, in slices of type FQDN, are not parsed.
    fn new((position, endpoint): (usize, &EndpointAddress)) -> Option<Self> {
        let EndpointAddress {
            addresses,
            conditions,
            target_ref: _,
            node_name: _,
            zone: _,
            hints: _,
        } = endpoint;
        Some(Self {
            position,
            address: addresses.first()?.parse().ok()?,
            state: state(conditions),
        })
    }
}

fn state(conditions: &EndpointConditions) -> EndpointState {
    let EndpointConditions {
        ready,
        serving,
        terminating,
    } = *conditions;
    let ready = ready.unwrap_or(true);
    if ready {
        EndpointState::Ready
    } else if serving.unwrap_or(ready) && terminating.unwrap_or(false) {
        EndpointState::Draining
    } else {
        EndpointState::NotServing
    }
}
