//! Takes a pod that is being deleted out of the traffic: answers its proxy once no other proxy sends to it.
//!
//! What proxies are told is not changed here: translation leaves a pod out as soon as the watch says that it is being
//! deleted, in every replica. This waits for the proxies connected here to acknowledge that. Those connected to other
//! replicas are told at the same moment and are given the time that clients outside the mesh are given, by the proxy
//! that asks.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use weft_api::proto::Withdrawn;
use weft_ir::{ResourceKey, ServicePort};

use super::Registry;
use crate::snapshot::Snapshots;
use crate::watch::ObjectKey;

/// The watch may be behind the kubelet by this much; a pod that is not being deleted then is only restarted in part.
const SEEN: Duration = Duration::from_secs(1);
/// A proxy that has not acknowledged by then is not waited for.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);

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

    /// The Service ports that the pod leaves; `None` when it is not being deleted.
    async fn leaving(&mut self) -> Option<BTreeSet<ServicePort>> {
        let end = Instant::now() + SEEN;
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let mesh = snapshot.as_ref().map(|snapshot| snapshot.encoder.mesh());
            let ports = mesh.and_then(|mesh| mesh.leaving(&self.pod.namespace, &self.pod.name));
            if let Some(ports) = ports {
                return Some(ports.clone());
            }
            timeout_at(end, self.snapshots.changed()).await.ok()?.ok()?;
        }
    }

    /// Waits until what every proxy here holds of `ports` is of after the withdrawal. How many are behind at the end.
    async fn acknowledged(&mut self, ports: &BTreeSet<ServicePort>) -> usize {
        let end = Instant::now() + ACKNOWLEDGED;
        let mut changes = self.registry.changes();
        // Each later version is without the pod too.
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
