//! Pods by name and by address, and the identity of those in the mesh.
//!
//! What is read of a pod is kept for as long as it is the same object, and nothing else says otherwise of it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_ir::{GatewayId, Identity, Place, TrustDomain, Workload};

use super::sidecar::{Excluded, PROXY_CONTAINER};
use crate::cluster::modes::Modes;
use crate::cluster::probes::probes;
use crate::cluster::zones::Zones;
use crate::input::Settings;
use crate::memo::{Last, PerObject, Same};
use crate::names::GATEWAY_LABEL;
use crate::objects::{Container, Pod, PodSpec, PodStatus};

/// By namespace and account: the Gateway whose proxies run under it.
pub(crate) type Accounts = HashMap<(String, String), GatewayId>;

/// The pods that have not ended.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pods {
    /// By namespace, then name.
    by_name: HashMap<Arc<str>, HashMap<Arc<str>, Arc<PodInfo>>>,
    /// Pods that own their IP; of several with one IP the youngest.
    by_address: HashMap<IpAddr, Arc<PodInfo>>,
    /// By a node's address: the namespaces of the pods that are on its network.
    by_node: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    /// How many are in the mesh.
    pub(crate) in_mesh: usize,
    /// Of annotations that cannot be read.
    pub(crate) warnings: BTreeSet<String>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct PodInfo {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Arc<str>,
    /// When it was created.
    age: String,
    /// Its own; its node's where it is on the node's network.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) on_host: bool,
    /// Where it runs.
    pub(crate) place: Place,
    /// What its own proxy is told; `None` outside the mesh.
    pub(crate) workload: Option<Arc<Workload>>,
    /// That of the proxy before its ports; `None`: there is none.
    identity: Option<Identity>,
    /// Ports that the proxy is not before.
    excluded: Excluded,
    /// The Gateway that it is a proxy of: in the mesh as a client, with no proxy before it.
    pub(crate) gateway: Option<GatewayId>,
    /// It is being deleted.
    pub(crate) leaving: bool,
    warning: Option<String>,
}

/// Pods as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    pods: PerObject<Pod, Rules, Option<Arc<PodInfo>>>,
    last: Last<Sources, Pods>,
}

type Sources = (Vec<Same<Pod>>, Rules, Same<Zones>);

/// What is read of a pod depends on these besides.
type Rules = (Same<Accounts>, Same<Modes>);

impl Memo {
    pub(crate) fn read(
        &mut self,
        pods: &[Arc<Pod>],
        settings: &Settings,
        rules: Rules,
        zones: &Same<Zones>,
    ) -> Same<Pods> {
        let from = (Same::all(pods), rules.clone(), zones.clone());
        self.last.get(from, || {
            let (accounts, modes) = rules.clone();
            let read = |pod: &Arc<Pod>| {
                let place = zones.place(&pod.spec.node_name);
                PodInfo::new(pod, settings, &accounts, &modes, place).map(Arc::new)
            };
            let holds = |made: &Option<Arc<PodInfo>>| {
                let place = made.as_ref().map(|pod| &pod.place);
                place.is_none_or(|place| zones.zone(&place.node) == place.zone)
            };
            let pods = self.pods.map_while(pods, rules, holds, read);
            Pods::new(pods.into_iter().flatten())
        })
    }
}

impl Pods {
    fn new(pods: impl Iterator<Item = Arc<PodInfo>>) -> Self {
        let mut index = Self::default();
        for pod in pods {
            index.in_mesh += usize::from(pod.workload.is_some());
            index.warnings.extend(pod.warning.clone());
            for address in &pod.addresses {
                if pod.on_host {
                    let namespaces = index.by_node.entry(*address).or_default();
                    namespaces.insert(Arc::clone(&pod.namespace));
                } else {
                    youngest(index.by_address.entry(*address), &pod);
                }
            }
            let of_namespace = index.by_name.entry(Arc::clone(&pod.namespace)).or_default();
            youngest(of_namespace.entry(Arc::clone(&pod.name)), &pod);
        }
        index
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<PodInfo>> {
        self.by_name.get(namespace)?.get(name)
    }

    pub(crate) fn at(&self, address: &IpAddr) -> Option<&Arc<PodInfo>> {
        self.by_address.get(address)
    }

    /// The namespaces of the pods that are on the network of the node with this address; `None`: no node is known by it.
    pub(crate) fn on_host(&self, address: &IpAddr) -> Option<&BTreeSet<Arc<str>>> {
        self.by_node.get(address)
    }

    /// The pods with an address that are being deleted, some more than once.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.by_address.values().filter(|pod| pod.leaving)
    }
}

fn youngest<K>(at: Entry<'_, K, Arc<PodInfo>>, pod: &Arc<PodInfo>) {
    match at {
        Entry::Vacant(free) => drop(free.insert(Arc::clone(pod))),
        Entry::Occupied(mut taken) => {
            if taken.get().order() <= pod.order() {
                taken.insert(Arc::clone(pod));
            }
        }
    }
}

impl PodInfo {
    /// `None` of a pod that has ended: its IP may be another's by now.
    fn new(
        pod: &Pod,
        settings: &Settings,
        accounts: &Accounts,
        modes: &Modes,
        place: Place,
    ) -> Option<Self> {
        let Pod {
            metadata,
            spec,
            status,
        } = pod;
        let PodStatus {
            phase,
            pod_ip,
            pod_ips,
        } = status;
        if matches!(phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let mut info = Self {
            namespace: Arc::from(&*metadata.namespace),
            name: Arc::from(&*metadata.name),
            uid: Arc::from(&*metadata.uid),
            age: metadata.creation_timestamp.clone(),
            addresses: Vec::new(),
            on_host: spec.host_network,
            place,
            workload: None,
            identity: None,
            excluded: Excluded::default(),
            gateway: None,
            leaving: !metadata.deletion_timestamp.is_empty(),
            warning: None,
        };
        let texts = pod_ips.iter().map(|entry| entry.ip.as_str());
        let addresses = texts.chain([pod_ip.as_str()]);
        let addresses: BTreeSet<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
        info.addresses = addresses.into_iter().collect();
        if info.on_host {
            return Some(info);
        }
        info.gateway = gateway(pod, accounts).cloned();
        if info.gateway.is_none() && !has_sidecar(spec) {
            return Some(info);
        }
        let identity = identity(&metadata.namespace, spec, &settings.trust_domain);
        info.workload = identity.as_ref().map(|identity| {
            let (mode, warning) = modes.of(metadata);
            info.warning = warning;
            Arc::new(Workload {
                identity: identity.clone(),
                mode,
                probes: probes(spec),
                place: info.place.clone(),
            })
        });
        // A gateway's proxy takes no mutual TLS of the mesh.
        info.identity = identity.filter(|_| info.gateway.is_none());
        info.excluded = Excluded::of(metadata, spec);
        Some(info)
    }

    /// The identity to expect at a port of its addresses; `None`: plain text.
    pub(crate) fn identity_at(&self, port: u16) -> Option<&Identity> {
        let identity = self.identity.as_ref()?;
        (!self.excluded.bypasses(port)).then_some(identity)
    }

    fn order(&self) -> (&str, &str, &str) {
        (&self.age, &self.namespace, &self.name)
    }
}

/// The Gateway that the pod is a proxy of: it has the label, and runs under the account that was made for it.
fn gateway<'a>(pod: &Pod, accounts: &'a Accounts) -> Option<&'a GatewayId> {
    let Pod { metadata, spec, .. } = pod;
    let named = metadata.labels.get(GATEWAY_LABEL)?;
    let account = account(spec).to_owned();
    let gateway = accounts.get(&(metadata.namespace.clone(), account))?;
    (*gateway.name == **named).then_some(gateway)
}

fn has_sidecar(spec: &PodSpec) -> bool {
    let is_proxy = |container: &Container| container.name == PROXY_CONTAINER;
    let mut containers = spec.containers.iter().chain(&spec.init_containers);
    containers.any(is_proxy)
}

fn identity(namespace: &str, spec: &PodSpec, trust_domain: &TrustDomain) -> Option<Identity> {
    // The API server admits no other names than identities can carry.
    Identity::new(trust_domain.clone(), namespace, account(spec)).ok()
}

fn account(spec: &PodSpec) -> &str {
    match spec.service_account_name.as_str() {
        "" => "default",
        account => account,
    }
}
