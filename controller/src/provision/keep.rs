//! Carries out what is planned while this replica leads, and reports what prevents it.

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
use weft_translate::Provision;

use super::observe::{ObjectId, Observed, ObservedObject, Watches, resource};
use super::plan::{self, Applied, Apply, Delete, Step, Work};
use super::{Provisions, ProxySettings};
use crate::kubernetes;
use crate::metrics::ProvisionerMetrics;
use crate::obstacles::{self, Obstacles};
use crate::retries::{Retries, sleep_until};
use crate::watch::World;

/// How long events are gathered before a round.
const GATHER: Duration = Duration::from_millis(50);
/// How long the watch may take to show an object that was applied; after that the object counts as
/// gone.
const UNSEEN: Duration = Duration::from_secs(5);
/// After a report that could not be written.
const REPORT_RETRY: Duration = Duration::from_secs(5);
/// Gateways whose objects are written concurrently.
const CONCURRENT: usize = 8;

/// Keeps the objects that Gateways run on.
pub struct Provisioner {
    pub client: Client,
    /// Where the report is written.
    pub namespace: String,
    pub settings: ProxySettings,
    pub provisions: Provisions,
    pub world: Arc<World>,
    pub leader: watch::Receiver<bool>,
    pub metrics: ProvisionerMetrics,
    pub stop: CancellationToken,
}

/// The result of a Gateway's work.
struct Outcome {
    gateway: GatewayId,
    applied: Vec<(ObjectId, Applied)>,
    obstacle: Option<String>,
}

/// What is known during one term of leadership.
#[derive(Default)]
struct Term {
    observed: Observed,
    applied: HashMap<ObjectId, Applied>,
    /// Gateways whose work failed.
    failed: Retries<GatewayId>,
    obstacles: Obstacles,
    /// The last report that was written.
    reported: Option<Obstacles>,
    /// When a report that failed is written again.
    report_again: Option<Instant>,
}

impl Term {
    /// When the next round is due without any event.
    fn next_round(&self) -> Option<Instant> {
        let unseen = self
            .applied
            .iter()
            .filter(|(id, _)| !self.observed.objects.contains_key(*id))
            .map(|(_, applied)| applied.at + UNSEEN);
        let again = self.failed.next().into_iter().chain(self.report_again);
        again.chain(unseen).min()
    }
}

impl Provisioner {
    /// Runs until `stop`.
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

    /// Runs until another replica leads.
    async fn lead(&mut self) {
        let mut watches = Watches::new(&self.client);
        let mut term = Term::default();
        self.provisions.mark_changed();
        loop {
            let next = term.next_round();
            tokio::select! {
                () = watches.next(&mut term.observed) => {}
                Ok(()) = self.provisions.changed() => {}
                () = sleep_until(next) => {}
                changed = self.leader.changed() => {
                    if changed.is_err() || !*self.leader.borrow() {
                        return;
                    }
                }
            }
            let end = Instant::now() + GATHER;
            while tokio::time::timeout_at(end, watches.next(&mut term.observed))
                .await
                .is_ok()
            {}
            let provisions = self.provisions.borrow_and_update().clone();
            if let Some(provisions) = provisions
                && term.observed.listed()
            {
                self.round(&provisions, &mut term).await;
                self.report(&mut term).await;
            }
        }
    }

    async fn round(&self, provisions: &[Provision], term: &mut Term) {
        term.applied.retain(|id, applied| {
            term.observed.objects.contains_key(id) || applied.at.elapsed() < UNSEEN
        });
        for delete in plan::outdated(&term.observed, &self.classes()) {
            if let Err(error) = self.delete(&delete).await {
                self.metrics.errors.inc();
                tracing::warn!(
                    ?delete,
                    error,
                    "an object of a Gateway's former class was not deleted"
                );
            }
        }
        let works = plan::plan(provisions, &self.settings, &term.observed, &term.applied);
        let concerned: BTreeSet<_> = works.iter().map(|work| work.gateway.clone()).collect();
        term.failed.retain(|gateway| concerned.contains(gateway));
        let now = Instant::now();
        let mut due = works;
        due.retain(|work| term.failed.is_due(&work.gateway, now));
        let doing = futures::stream::iter(due).map(|work| async move { self.work(&work).await });
        let outcomes: Vec<Outcome> = doing.buffer_unordered(CONCURRENT).collect().await;

        let mut obstacles = BTreeMap::clone(&term.obstacles);
        obstacles.retain(|gateway, _| concerned.contains(gateway));
        for outcome in outcomes {
            self.take(outcome, &mut obstacles, term);
        }
        term.obstacles = Arc::new(obstacles);
    }

    fn take(&self, outcome: Outcome, obstacles: &mut BTreeMap<GatewayId, String>, term: &mut Term) {
        let Outcome {
            gateway,
            applied,
            obstacle,
        } = outcome;
        term.applied.extend(applied);
        match obstacle {
            None => {
                term.failed.succeeded(&gateway);
                obstacles.remove(&gateway);
            }
            Some(obstacle) => {
                if obstacles.get(&gateway) != Some(&obstacle) {
                    self.metrics.errors.inc();
                    tracing::warn!(%gateway, obstacle, "the Gateway lacks an object that it runs on");
                }
                term.failed.failed(gateway.clone(), Instant::now());
                obstacles.insert(gateway, obstacle);
            }
        }
    }

    /// Reports the obstacles where they differ from what was reported last. The first report of a
    /// term is always written: it replaces that of the leader before.
    async fn report(&self, term: &mut Term) {
        if term.reported.as_ref() == Some(&term.obstacles) {
            return;
        }
        if term.report_again.is_some_and(|at| at > Instant::now()) {
            return;
        }
        match obstacles::write(&self.client, &self.namespace, &term.obstacles).await {
            Ok(()) => {
                term.reported = Some(Arc::clone(&term.obstacles));
                term.report_again = None;
            }
            Err(error) => {
                term.report_again = Some(Instant::now() + REPORT_RETRY);
                tracing::warn!(
                    %error,
                    "the report for the statuses of Gateways was not written; check that the \
                     provisioner's account may create and patch its Lease"
                );
            }
        }
    }

    /// Returns the class of every Gateway, by its UID.
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

    /// Applies an object; returns its version afterwards.
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
            |error: &KubeError| format!("writing {} {key} failed: {error}", kind.names().2);
        if *claim {
            let existing = api.get_metadata_opt(&key.name).await;
            if let Some(existing) = existing.map_err(|error| failed(&error))? {
                plan::check_owner(
                    *kind,
                    key,
                    &ObservedObject::new(&existing.metadata),
                    gateway_uid,
                )?;
            }
        }
        let parameters = kubernetes::apply();
        let written = api
            .patch(&key.name, &parameters, &Patch::Apply(object))
            .await;
        let written = written.map_err(|error| failed(&error))?;
        self.metrics.writes.inc();
        tracing::info!(kind = kind.names().2, object = %key, "applied");
        Ok(ObservedObject::new(&written.metadata).version)
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
            // Deleted, or created again, in the meantime.
            Err(KubeError::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(format!("deleting {} {key} failed: {error}", kind.names().2)),
        }
    }
}
