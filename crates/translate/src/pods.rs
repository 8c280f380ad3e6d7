//! Pods by address, and the identity of those in the mesh.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_ir::{GatewayId, Identity, TrustDomain, Workload};

use crate::Settings;
use crate::gateways::Accounts;
use crate::gateways::provision::GATEWAY_LABEL;
use crate::modes::Modes;
use crate::objects::{Container, Pod, PodSpec, PodStatus};
use crate::probes::probes;

/// The container whose presence means that a pod is in the mesh.
pub(crate) const PROXY_CONTAINER: &str = "weft-proxy";

#[derive(Debug, Default)]
pub(crate) struct Pods {
    /// Pods that own their IP; of several with one IP the youngest.
    pub(crate) by_address: HashMap<IpAddr, Option<Identity>>,
    /// Pods in the mesh by namespace, then name.
    pub(crate) workloads: HashMap<String, HashMap<String, Arc<Workload>>>,
    /// Namespace and name of pods on their host's network, whose IP is not theirs.
    pub(crate) on_host: HashSet<(String, String)>,
    /// Namespace and name of the pods that are being deleted.
    pub(crate) terminating: HashMap<IpAddr, (String, String)>,
    /// Proxies of gateways by namespace, then name: in the mesh as clients, with no proxy before them.
    pub(crate) gateways: HashMap<String, HashMap<String, GatewayId>>,
}

pub(crate) fn index(
    pods: &[Arc<Pod>],
    settings: &Settings,
    accounts: &Accounts,
    modes: &mut Modes<'_>,
) -> Pods {
    let mut oldest_first: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
    oldest_first.sort_by_key(|pod| {
        let meta = &pod.metadata;
        (&meta.creation_timestamp, &meta.namespace, &meta.name)
    });
    let mut index = Pods::default();
    for pod in oldest_first {
        index.add(pod, settings, accounts, modes);
    }
    index
}

impl Pods {
    fn add(&mut self, pod: &Pod, settings: &Settings, accounts: &Accounts, modes: &mut Modes<'_>) {
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
        // The IP of an ended pod may be another's by now; a pod on the host's network shares its IP with all others.
        if matches!(phase.as_str(), "Succeeded" | "Failed") {
            return;
        }
        if spec.host_network {
            self.on_host
                .insert((metadata.namespace.clone(), metadata.name.clone()));
            return;
        }
        let gateway = gateway(pod, accounts);
        let identity = (gateway.is_some() || has_sidecar(spec))
            .then(|| identity(&metadata.namespace, spec, &settings.trust_domain))
            .flatten();
        if let Some(identity) = &identity {
            let workload = Arc::new(Workload {
                identity: identity.clone(),
                mode: modes.of(metadata),
                probes: probes(spec),
            });
            self.workloads
                .entry(metadata.namespace.clone())
                .or_default()
                .insert(metadata.name.clone(), workload);
        }
        // A gateway's proxy takes no mutual TLS of the mesh.
        let reached_as = identity.filter(|_| gateway.is_none());
        if let Some(gateway) = gateway {
            self.gateways
                .entry(metadata.namespace.clone())
                .or_default()
                .insert(metadata.name.clone(), gateway.clone());
        }
        let addresses = pod_ips.iter().map(|entry| entry.ip.as_str());
        for address in addresses.chain([pod_ip.as_str()]) {
            if let Ok(address) = address.parse() {
                self.by_address.insert(address, reached_as.clone());
                if metadata.deletion_timestamp.is_empty() {
                    self.terminating.remove(&address);
                } else {
                    let pod = (metadata.namespace.clone(), metadata.name.clone());
                    self.terminating.insert(address, pod);
                }
            }
        }
    }

    /// The identity at an address; `None` outside the mesh.
    pub(crate) fn identity(&self, address: &IpAddr) -> Option<&Identity> {
        self.by_address.get(address)?.as_ref()
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
