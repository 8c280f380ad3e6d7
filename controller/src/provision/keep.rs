//! Carries out what is planned while this replica leads, and says what stands in the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, Preconditions};
use kube::{Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_ir::GatewayId;

use super::ProxySettings;
use super::observe::{ObjectId, Observed, Seen, Watches, resource};
use super::plan::{self, Applied, Apply, Delete, Step, Work};
use crate::kubernetes;
use crate::metrics::Metrics;
use crate::retries::{Retries, sleep_until};
use crate::snapshot::{Snapshot, Snapshots};
use crate::watch::World;

/// How long news are gathered before a round.
const GATHER: Duration = Duration::from_millis(50);
/// How long the watch may take to show what was applied; after that it is taken for gone.
const UNSEEN: Duration = Duration::from_secs(5);
/// Gateways that are worked for at the same time.
const CONCURRENT: usize = 8;

/// Why Gateways do not have what they run on.
pub type Obstacles = Arc<BTreeMap<GatewayId, String>>;

/// Keeps what Gateways run on.
pub struct Provisioner {
    pub client: Client,
    pub settings: ProxySettings,
    pub snapshots: Snapshots,
    pub world: Arc<World>,
    pub leader: watch::Receiver<bool>,
    pub obstacles: watch::Sender<Obstacles>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// Gateways that could not be given something.
type Failed = Retries<GatewayId>;

/// What happened to a Gateway's work.
struct Outcome {
    gateway: GatewayId,
    applied: Vec<(ObjectId, Applied)>,
    obstacle: Option<String>,
}

impl Provisioner {
    /// Until told to stop.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let leading = async {
                while !*self.leader.borrow_and_update() {
                    if self.leader.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                self.lead().await;
            };
            tokio::select! {
                () = leading => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Until another replica leads.
    async fn lead(&mut self) {
        let mut watches = Watches::new(&self.client);
        let mut observed = Observed::default();
        let mut applied = HashMap::new();
        let mut failed = Failed::default();
        self.snapshots.mark_changed();
        loop {
            let unseen = applied
                .iter()
                .filter(|(id, _)| !observed.objects.contains_key(*id));
            let unseen = unseen.map(|(_, applied): (_, &Applied)| applied.at + UNSEEN);
            let retry = failed.next().into_iter().chain(unseen).min();
            tokio::select! {
                () = watches.next(&mut observed) => {}
                Ok(()) = self.snapshots.changed() => {}
                () = sleep_until(retry) => {}
                changed = self.leader.changed() => {
                    if changed.is_err() || !*self.leader.borrow() {
                        return;
                    }
                }
            }
            let end = Instant::now() + GATHER;
            while tokio::time::timeout_at(end, watches.next(&mut observed))
                .await
                .is_ok()
            {}
            let snapshot = self.snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot
                && observed.whole()
            {
                self.round(&snapshot, &observed, &mut applied, &mut failed)
                    .await;
            }
        }
    }

    async fn round(
        &self,
        snapshot: &Snapshot,
        observed: &Observed,
        applied: &mut HashMap<ObjectId, Applied>,
        failed: &mut Failed,
    ) {
        let provisions = &snapshot.provisions;
        applied.retain(|id, applied| {
            observed.objects.contains_key(id) || applied.at.elapsed() < UNSEEN
        });
        for delete in plan::outdated(observed, &self.classes()) {
            if let Err(error) = self.delete(&delete).await {
                self.metrics.provision_errors.inc();
                tracing::warn!(
                    ?delete,
                    error,
                    "an object of a Gateway that has another class now"
                );
            }
        }
        let works = plan::plan(provisions, &self.settings, observed, applied);
        let concerned: BTreeSet<_> = works.iter().map(|work| work.gateway.clone()).collect();
        failed.retain(|gateway| concerned.contains(gateway));
        let now = Instant::now();
        let mut due = works;
        due.retain(|work| failed.is_due(&work.gateway, now));
        let doing = futures::stream::iter(due).map(|work| async move { self.work(&work).await });
        let outcomes: Vec<Outcome> = doing.buffer_unordered(CONCURRENT).collect().await;

        let mut obstacles: BTreeMap<_, _> = self.obstacles.borrow().as_ref().clone();
        obstacles.retain(|gateway, _| concerned.contains(gateway));
        for Outcome {
            gateway,
            applied: now_applied,
            obstacle,
        } in outcomes
        {
            applied.extend(now_applied);
            match obstacle {
                None => {
                    failed.succeeded(&gateway);
                    obstacles.remove(&gateway);
                }
                Some(obstacle) => {
                    if obstacles.get(&gateway) != Some(&obstacle) {
                        self.metrics.provision_errors.inc();
                        tracing::warn!(%gateway, obstacle, "a Gateway is not given all that it runs on");
                    }
                    failed.failed(gateway.clone(), Instant::now());
                    obstacles.insert(gateway, obstacle);
                }
            }
        }
        self.obstacles.send_if_modified(|known| {
            let changed = **known != obstacles;
            *known = Arc::new(obstacles);
            changed
        });
    }

    /// The class of every Gateway, by uid.
    fn classes(&self) -> BTreeMap<String, String> {
        let gateways = self.world.gateways.objects();
        let classes = gateways.iter().filter_map(|gateway| {
            let spec = gateway.spec.as_ref().ok()?;
            let uid = gateway.metadata.uid.clone();
            Some((uid, spec.gateway_class_name.clone()))
        });
        classes.collect()
    }

    async fn work(&self, work: &Work) -> Outcome {
        let mut outcome = Outcome {
            gateway: work.gateway.clone(),
            applied: Vec::new(),
            obstacle: None,
        };
        let steps = match &work.steps {
            Ok(steps) => steps,
            Err(obstacle) => {
                outcome.obstacle = Some(obstacle.clone());
                return outcome;
            }
        };
        for step in steps {
            let done = match step {
                Step::Delete(delete) => self.delete(delete).await,
                Step::Apply(apply) => self.apply(apply, &work.uid).await.map(|version| {
                    let applied = Applied {
                        digest: apply.digest,
                        version,
                        at: Instant::now(),
                    };
                    outcome.applied.push((apply.id.clone(), applied));
                }),
            };
            if let Err(obstacle) = done {
                outcome.obstacle = Some(obstacle);
                break;
            }
        }
        outcome
    }

    fn api(&self, (kind, key): &ObjectId) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &resource(*kind))
    }

    /// The version of the object afterwards.
    async fn apply(&self, apply: &Apply, gateway_uid: &str) -> Result<String, String> {
        let Apply {
            id,
            object,
            digest: _,
            claim,
        } = apply;
        let (kind, key) = id;
        let api = self.api(id);
        let failed =
            |error: &KubeError| format!("{} {key} could not be written: {error}", kind.names().2);
        if *claim {
            let there = api.get_metadata_opt(&key.name).await;
            if let Some(there) = there.map_err(|error| failed(&error))? {
                plan::hindrance(*kind, key, &Seen::new(&there.metadata), gateway_uid)?;
            }
        }
        let parameters = kubernetes::apply();
        let written = api
            .patch(&key.name, &parameters, &Patch::Apply(object))
            .await;
        let written = written.map_err(|error| failed(&error))?;
        self.metrics.provision_writes.inc();
        tracing::info!(kind = kind.names().2, object = %key, "applied");
        Ok(Seen::new(&written.metadata).version)
    }

    async fn delete(&self, Delete { id, uid }: &Delete) -> Result<(), String> {
        let (kind, key) = id;
        let preconditions = Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        };
        let parameters = DeleteParams::background().preconditions(preconditions);
        match self.api(id).delete(&key.name, &parameters).await {
            Ok(_) => {
                tracing::info!(kind = kind.names().2, object = %key, "deleted");
                Ok(())
            }
            // Gone, or another by now.
            Err(KubeError::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(format!(
                "{} {key} could not be deleted: {error}",
                kind.names().2
            )),
        }
    }
}
