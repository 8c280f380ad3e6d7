//! Withdraws a terminating pod from traffic: answers its proxy once no other proxy sends to it.
//!
//! Translation in every replica removes a pod from the endpoints as soon as the watch shows that it
//! is being deleted. This waits until the proxies connected here have acknowledged that. Proxies of
//! other replicas get the update at the same time; the proxy that withdraws allows them as much
//! time as clients outside the mesh.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use weft_api::proto::Withdrawn;
use weft_ir::{ResourceKey, ServicePort};

use super::Registry;
use crate::snapshot::Snapshots;
use crate::watch::ObjectKey;

/// How long the watch may lag behind the kubelet. If the pod is not being deleted then, only a
/// container is restarted.
const WATCH_LAG: Duration = Duration::from_secs(1);
/// How long proxies may take to acknowledge.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Withdrawal {
    pub pod: ObjectKey,
    pub snapshots: Snapshots,
    pub registry: Registry,
}

impl Withdrawal {
    pub(super) async fn run(mut self) -> Withdrawn {
        let Some(ports) = self.leaving().await else {
            return Withdrawn::default();
        };
        let unacknowledged = self.acknowledged(&ports).await;
        Withdrawn {
            terminating: true,
            service_ports: u32::try_from(ports.len()).unwrap_or(u32::MAX),
            unacknowledged: u32::try_from(unacknowledged).unwrap_or(u32::MAX),
        }
    }

    /// Returns the Service ports that the pod leaves; `None` if it is not being deleted.
    async fn leaving(&mut self) -> Option<BTreeSet<ServicePort>> {
        let end = Instant::now() + WATCH_LAG;
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let mesh = snapshot.as_ref().map(|snapshot| snapshot.encoder.mesh());
            let ports = mesh.and_then(|mesh| mesh.terminating(&self.pod.namespace, &self.pod.name));
            if let Some(ports) = ports {
                return Some(ports.clone());
            }
            timeout_at(end, self.snapshots.changed()).await.ok()?.ok()?;
        }
    }

    /// Waits until every proxy connected here holds versions of `ports` from after the withdrawal.
    /// Returns how many do not at the end.
    async fn acknowledged(&mut self, ports: &BTreeSet<ServicePort>) -> usize {
        let end = Instant::now() + ACK_TIMEOUT;
        let mut changes = self.registry.changes();
        // Later versions do not have the pod either.
        let mut versions: HashMap<ResourceKey, Vec<u64>> = HashMap::new();
        loop {
            changes.mark_unchanged();
            if let Some(snapshot) = self.snapshots.borrow_and_update().clone() {
                for port in ports {
                    let known = versions
                        .entry(ResourceKey::Endpoints(port.clone()))
                        .or_default();
                    for version in snapshot.encoder.versions(port) {
                        if !known.contains(&version) {
                            known.push(version);
                        }
                    }
                }
            }
            let behind = self.registry.behind(&versions);
            if behind == 0 {
                return 0;
            }
            let changed = async {
                tokio::select! {
                    changed = changes.changed() => changed.is_ok(),
                    changed = self.snapshots.changed() => changed.is_ok(),
                }
            };
            if !timeout_at(end, changed).await.unwrap_or(false) {
                return behind;
            }
        }
    }
}
