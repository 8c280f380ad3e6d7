//! EndpointSlices by the Service or ServiceImport whose endpoints they hold.
//!
//! Does not know Services or pods. What is read of a slice is kept for as long as it is the same object.
//!
//! Source: the Multi-Cluster Services API, KEP-1645: the labels of imported slices.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_ir::{Hints, ServiceId};

use crate::memo::{Last, PerObject, Same};
use crate::objects::port_number;
use crate::objects::{
    EndpointAddress, EndpointConditions, EndpointHints, EndpointSlice, HintFor, Meta, SlicePort,
    TargetRef,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const IMPORT_NAME: &str = "multicluster.kubernetes.io/service-name";
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

/// Every slice that belongs to somebody.
#[derive(Debug)]
pub(crate) struct Slices {
    by_owner: HashMap<Arc<ServiceId>, Vec<Arc<SliceInfo>>>,
}

#[derive(Debug)]
pub(crate) struct SliceInfo {
    slice: Arc<EndpointSlice>,
    /// Whose endpoints it holds: a Service's, a ServiceImport's, or both.
    owners: Vec<Arc<ServiceId>>,
    /// It says from which cluster it comes.
    pub(crate) from_a_cluster: bool,
    pub(crate) endpoints: Vec<Named>,
}

/// An endpoint with an address.
#[derive(Debug)]
pub(crate) struct Named {
    /// In the slice's list.
    place: usize,
    pub(crate) address: IpAddr,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Ending, yet still serving: used when nothing else is ready.
    Draining,
    Away,
}

/// Slices as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    slices: PerObject<EndpointSlice, (), Arc<SliceInfo>>,
    last: Last<Vec<Same<EndpointSlice>>, Slices>,
}

impl Memo {
    pub(crate) fn read(&mut self, slices: &[Arc<EndpointSlice>]) -> Same<Slices> {
        self.last.get(Same::all(slices), || {
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
            from_a_cluster: labels.contains_key(SOURCE_CLUSTER),
            endpoints: (0..).zip(&slice.endpoints).filter_map(Named::new).collect(),
            slice: Arc::clone(slice),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.slice.metadata.namespace
    }

    /// Namespace and name of the pod behind an endpoint, if it names one.
    pub(crate) fn pod(&self, of: &Named) -> Option<(&str, &str)> {
        let TargetRef {
            kind,
            namespace,
            name,
        } = self.slice.endpoints.get(of.place)?.target_ref.as_ref()?;
        (kind == "Pod").then_some((namespace, name))
    }

    /// The node that the endpoint runs on; empty: not known.
    pub(crate) fn node(&self, of: &Named) -> &str {
        let endpoint = self.slice.endpoints.get(of.place);
        endpoint.map_or("", |endpoint| &endpoint.node_name)
    }

    /// The clients that the endpoint is for, where that is said. Nodes of another cluster are not those of this one.
    pub(crate) fn hints(&self, of: &Named) -> Option<Hints> {
        let EndpointHints {
            for_zones,
            for_nodes,
        } = &self.slice.endpoints.get(of.place)?.hints;
        let names = |all: &[HintFor]| all.iter().map(|of| of.name.clone()).collect();
        let hints = Hints {
            nodes: names(if self.from_a_cluster { &[] } else { for_nodes }),
            zones: names(for_zones),
        };
        (hints != Hints::default()).then_some(hints)
    }

    /// The number of the port of the Service port's name.
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

impl Named {
    /// Names (of slices of type FQDN) do not parse.
    fn new((place, endpoint): (usize, &EndpointAddress)) -> Option<Self> {
        let EndpointAddress {
            addresses,
            conditions,
            target_ref: _,
            node_name: _,
            hints: _,
        } = endpoint;
        Some(Self {
            place,
            address: addresses.first()?.parse().ok()?,
            state: state(conditions),
        })
    }
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
