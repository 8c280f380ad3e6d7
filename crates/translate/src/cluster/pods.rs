//! Pods by name and by address, and the identity of those in the mesh.
//!
//! A result is kept for as long as the pod is the same object and the other inputs agree.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_ir::{GatewayId, Identity, Locality, TrustDomain, Workload};

use super::sidecar::{ExcludedPorts, PROXY_CONTAINER};
use crate::cluster::modes::MtlsModes;
use crate::cluster::probes::probes;
use crate::cluster::zones::Zones;
use crate::input::Settings;
use crate::memo::{ByIdentity, Memo, ObjectMemo};
use crate::names::GATEWAY_LABEL;
use crate::objects::{Container, Pod, PodIp, PodSpec, PodStatus};

/// The Gateway whose proxies run under a service account, by namespace and name of the account.
pub(crate) type GatewayAccounts = HashMap<(String, String), GatewayId>;

/// The pods of a namespace by name.
pub(crate) type PodsByName = HashMap<Arc<str>, Arc<PodInfo>>;

/// The pods that have not terminated.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pods {
    /// By namespace, then by name.
    by_name: HashMap<Arc<str>, PodsByName>,
    /// Pods that have an IP of their own; if several report the same IP, the youngest.
    by_address: HashMap<IpAddr, Arc<PodInfo>>,
    /// By the address of a node: the namespaces of the pods that use its host network.
    by_node: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Number of pods in the mesh.
    pub(crate) in_mesh: usize,
    /// Warnings about invalid annotations.
    pub(crate) warnings: BTreeSet<String>,
}

/// A pod that has not terminated.
#[derive(Debug, PartialEq)]
pub(crate) struct PodInfo {
    /// The object itself.
    pub(crate) object: Arc<Pod>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Arc<str>,
    /// Creation timestamp.
    age: String,
    /// The pod's own addresses, or those of its node if it uses the host network.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether the pod uses the host network.
    pub(crate) on_host: bool,
    /// Node and zone.
    pub(crate) locality: Locality,
    /// Configuration of its own proxy, without the limits of Services; `None` outside the mesh.
    pub(crate) workload: Option<Arc<Workload>>,
    /// Identity that its proxy presents to clients; `None` if no proxy accepts mTLS for the pod.
    identity: Option<Identity>,
    /// Ports whose connections bypass the proxy.
    excluded: ExcludedPorts,
    /// The Gateway that the pod is a proxy of: it is in the mesh as a client, and no proxy accepts
    /// connections for it.
    pub(crate) gateway: Option<GatewayId>,
    /// Whether the pod is being deleted.
    pub(crate) terminating: bool,
    warnings: Vec<String>,
}

/// The last state of pods.
#[derive(Debug, Default)]
pub(crate) struct PodCache {
    pods: ObjectMemo<Pod, PodInputs, Option<Arc<PodInfo>>>,
    last: Memo<Inputs, Pods>,
}

type Inputs = (Vec<ByIdentity<Pod>>, PodInputs, ByIdentity<Zones>);

/// Inputs that every pod depends on.
type PodInputs = (ByIdentity<GatewayAccounts>, ByIdentity<MtlsModes>);

impl PodCache {
    pub(crate) fn update(
        &mut self,
        pods: &[Arc<Pod>],
        settings: &Settings,
        rules: PodInputs,
        zones: &ByIdentity<Zones>,
    ) -> ByIdentity<Pods> {
        let from = (ByIdentity::all(pods), rules.clone(), zones.clone());
        self.last.get(from, || {
            let (accounts, modes) = rules.clone();
            let read = |pod: &Arc<Pod>| {
                let locality = zones.locality(&pod.spec.node_name);
                PodInfo::new(pod, settings, &accounts, &modes, locality).map(Arc::new)
            };
            let holds = |made: &Option<Arc<PodInfo>>| {
                let locality = made.as_ref().map(|pod| &pod.locality);
                locality.is_none_or(|of| zones.zone(&of.node) == of.zone)
            };
            let pods = self.pods.map_valid(pods, rules, holds, read);
            Pods::new(pods.into_iter().flatten())
        })
    }
}

impl Pods {
    fn new(pods: impl Iterator<Item = Arc<PodInfo>>) -> Self {
        let mut index = Self::default();
        for pod in pods {
            index.in_mesh += usize::from(pod.workload.is_some());
            index.warnings.extend(pod.warnings.iter().cloned());
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

    /// Returns the pods of a namespace, by name.
    pub(crate) fn of_namespace(&self, namespace: &str) -> Option<&PodsByName> {
        self.by_name.get(namespace)
    }

    /// Returns the pods of each namespace, by name.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, &PodsByName)> {
        self.by_name.iter()
    }

    pub(crate) fn at(&self, address: &IpAddr) -> Option<&Arc<PodInfo>> {
        self.by_address.get(address)
    }

    /// Returns the namespaces of the pods that use the host network of the node with this address,
    /// or `None` if no node is known to have it.
    pub(crate) fn on_host(&self, address: &IpAddr) -> Option<&BTreeSet<Arc<str>>> {
        self.by_node.get(address)
    }

    /// Returns the terminating pods that have an address; a pod with several addresses is repeated.
    pub(crate) fn terminating(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.by_address.values().filter(|pod| pod.terminating)
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
    /// Returns `None` for a pod that has terminated, since its IP can belong to another pod by now.
    fn new(
        pod: &Arc<Pod>,
        settings: &Settings,
        accounts: &GatewayAccounts,
        modes: &MtlsModes,
        locality: Locality,
    ) -> Option<Self> {
        let Pod {
            metadata,
            spec,
            status,
        } = pod.as_ref();
        let PodStatus {
            phase,
            pod_ip,
            pod_ips,
            host_ip,
            host_ips,
        } = status;
        if matches!(phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let mut info = Self {
            object: Arc::clone(pod),
            namespace: Arc::from(&*metadata.namespace),
            name: Arc::from(&*metadata.name),
            uid: Arc::from(&*metadata.uid),
            age: metadata.creation_timestamp.clone(),
            addresses: Vec::new(),
            on_host: spec.host_network,
            locality,
            workload: None,
            identity: None,
            excluded: ExcludedPorts::default(),
            gateway: None,
            terminating: !metadata.deletion_timestamp.is_empty(),
            warnings: Vec::new(),
        };
        info.addresses = addresses(pod_ips, pod_ip);
        if info.on_host {
            return Some(info);
        }
        info.gateway = gateway(pod, accounts).cloned();
        if info.gateway.is_none() && !has_sidecar(pod) {
            return Some(info);
        }
        let identity = identity(&metadata.namespace, spec, &settings.trust_domain);
        info.workload = identity.as_ref().map(|identity| {
            let (mode, warning) = modes.of(metadata);
            let (port_modes, of_ports) = modes.of_ports(metadata);
            info.warnings = warning.into_iter().chain(of_ports).collect();
            Arc::new(Workload {
                identity: identity.clone(),
                mode,
                port_modes,
                probes: probes(spec),
                locality: info.locality.clone(),
                host_ips: addresses(host_ips, host_ip),
                limits: BTreeMap::new(),
            })
        });
        // The proxy of a gateway does not accept mTLS of the mesh.
        info.identity = identity.filter(|_| info.gateway.is_none());
        info.excluded = ExcludedPorts::of(metadata, spec);
        Some(info)
    }

    /// Returns the identity to expect at a port of the pod, or `None` if the port gets plain text.
    pub(crate) fn identity_at(&self, port: u16) -> Option<&Identity> {
        let identity = self.identity.as_ref()?;
        (!self.excluded.bypasses(port)).then_some(identity)
    }

    /// Returns true if a sidecar accepts connections for the pod.
    pub(crate) fn has_server(&self) -> bool {
        self.workload.is_some() && self.gateway.is_none()
    }

    fn order(&self) -> (&str, &str, &str) {
        (&self.age, &self.namespace, &self.name)
    }
}

/// Returns the addresses of a list and the single one that older API servers have instead of it,
/// sorted and without duplicates.
fn addresses(all: &[PodIp], first: &str) -> Vec<IpAddr> {
    let texts = all.iter().map(|entry| entry.ip.as_str()).chain([first]);
    let addresses: BTreeSet<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.into_iter().collect()
}

/// Returns the Gateway that the pod is a proxy of: the pod has the label and runs under the service
/// account created for that Gateway.
fn gateway<'a>(pod: &Pod, accounts: &'a GatewayAccounts) -> Option<&'a GatewayId> {
    let Pod { metadata, spec, .. } = pod;
    let named = metadata.labels.get(GATEWAY_LABEL)?;
    let account = account(spec).to_owned();
    let gateway = accounts.get(&(metadata.namespace.clone(), account))?;
    (*gateway.name == **named).then_some(gateway)
}

/// Returns true if a proxy accepts mTLS for the pod's application. A Gateway's proxy has none, also
/// once the Gateway is of no managed class any longer, as when Weft is uninstalled.
fn has_sidecar(pod: &Pod) -> bool {
    let PodSpec {
        containers,
        init_containers,
        ..
    } = &pod.spec;
    let is_proxy = |container: &Container| container.name == PROXY_CONTAINER;
    let has_application = !containers.iter().all(is_proxy);
    let of_gateway = pod.metadata.labels.contains_key(GATEWAY_LABEL);
    containers.iter().chain(init_containers).any(is_proxy) && (has_application || !of_gateway)
}

fn identity(namespace: &str, spec: &PodSpec, trust_domain: &TrustDomain) -> Option<Identity> {
    // Names that the API server accepts are valid in identities.
    Identity::new(trust_domain.clone(), namespace, account(spec)).ok()
}

fn account(spec: &PodSpec) -> &str {
    match spec.service_account_name.as_str() {
        "" => "default",
        account => account,
    }
}
