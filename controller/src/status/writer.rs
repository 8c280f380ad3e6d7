//! Writes the statuses of Gateways, routes and policies while this replica leads: only those that
//! differ, and a bounded number at a time.
//!
//! The watch decides which objects need a write. The patch is made from the object as the API
//! server has it, with its resource version, so that a concurrent write of another causes a
//! conflict, and the write is repeated.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch};
use kube::{Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::due::{self, Counted, Due, Subject, patch};
use super::listening::{self, Listening};
use super::pauses::{Pauses, SETTLED};
use super::{now, programmed};
use crate::kubernetes;
use crate::metrics::Metrics;
use crate::obstacles::Obstacles;
use crate::replicas::Others;
use crate::retries::{Retries, sleep_until};
use crate::snapshot::Snapshots;
use crate::subscribe::Registry;
use crate::watch::{Kinds, ObjectKey, Served, World};

/// Concurrent writes.
const CONCURRENT: usize = 8;
/// Writes of one round, before the latest snapshot is used again.
const ROUND: usize = 64;
/// The minimum time between rounds: with [`ROUND`], 640 writes a second at most.
const PACE: Duration = Duration::from_millis(100);
/// Attempts of one write that conflicts with others.
const MAX_ATTEMPTS: usize = 4;

/// Writes statuses from the snapshot and from the answers of proxies.
pub struct StatusWriter {
    pub client: Client,
    pub kinds: Kinds,
    pub world: Arc<World>,
    pub snapshots: Snapshots,
    pub registry: Registry,
    /// The reports of other replicas on their proxies.
    pub others: watch::Receiver<Others>,
    /// Why Gateways lack objects that they run on, as the provisioner reports it.
    pub obstacles: watch::Receiver<Obstacles>,
    pub leader: watch::Receiver<bool>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// The statuses whose writes failed.
type Failed = Retries<(Subject, ObjectKey)>;

impl StatusWriter {
    /// Runs until `stop`.
    pub async fn run(mut self) {
        let mut changes = self.world.changes.statuses.subscribe();
        let mut counts = self.registry.destination_changes();
        let mut refusals = self.registry.rejections();
        let (mut failed, mut pauses) = (Failed::default(), Pauses::default());
        loop {
            counts.mark_unchanged();
            let (more, deferred) = self.round(&mut failed, &mut pauses).await;
            let retry = failed.next().into_iter().chain(deferred).min();
            let pause = pauses.after_an_answer();
            let counted = async {
                let changed = counts.changed().await;
                tokio::time::sleep(pause).await;
                changed
            };
            let waiting = async {
                tokio::select! {
                    () = std::future::ready(()), if more => {}
                    changed = self.snapshots.changed() => pending_if(changed.is_err()).await,
                    changed = changes.changed() => pending_if(changed.is_err()).await,
                    changed = self.leader.changed() => pending_if(changed.is_err()).await,
                    changed = self.obstacles.changed() => pending_if(changed.is_err()).await,
                    changed = counted => pending_if(changed.is_err()).await,
                    changed = self.others.changed() => pending_if(changed.is_err()).await,
                    changed = refusals.changed() => pending_if(changed.is_err()).await,
                    () = sleep_until(retry) => {}
                }
                tokio::time::sleep(PACE).await;
            };
            tokio::select! {
                () = waiting => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Writes up to [`ROUND`] statuses. Returns whether more are due, and when deferred ones are.
    async fn round(&mut self, failed: &mut Failed, pauses: &mut Pauses) -> (bool, Option<Instant>) {
        if !*self.leader.borrow_and_update() {
            return (false, None);
        }
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else {
            return (false, None);
        };
        let others = self.others.borrow_and_update().clone();
        let statuses = programmed::statuses(&snapshot, &self.registry, &others);
        let policies = programmed::authorizations(&snapshot, &self.registry, &others);
        let traffic = programmed::traffic(&snapshot, &self.registry, &others);
        let obstacles = Arc::clone(&self.obstacles.borrow_and_update());
        let elsewhere = listening::others(&self.world.pods.objects());
        let listening = Listening::new(snapshot.encoder.mesh(), &self.registry, elsewhere);
        let counted = Counted {
            routes: &statuses,
            authorizations: &policies,
            traffic: &traffic,
        };
        let mut due = due::all(&snapshot, counted, &listening, &obstacles, &self.world);
        let begin = Instant::now();
        failed.retain(|(subject, key)| {
            due.iter()
                .any(|due| (due.subject, &due.key) == (*subject, key))
        });
        due.retain(|due| failed.is_due(&(due.subject, due.key.clone()), begin));
        let settled = if others.0.is_empty() {
            Duration::ZERO
        } else {
            SETTLED
        };
        let deferred = pauses.hold(&mut due, begin, settled);
        let more = due.len() > ROUND;
        due.truncate(ROUND);
        let this = &*self;
        let writes = futures::stream::iter(due).map(|due| async move {
            let written = this.write(&due).await;
            (due, written)
        });
        let written: Vec<_> = writes.buffer_unordered(CONCURRENT).collect().await;
        for (due, written) in written {
            if matches!(written, Ok(Written::Yes)) {
                pauses.wrote(&due, Instant::now());
            }
            self.record(due, written, failed);
        }
        (more, deferred)
    }

    fn record(&self, due: Due, written: Result<Written, KubeError>, failed: &mut Failed) {
        let subject = (due.subject, due.key);
        let why = match written {
            Ok(Written::Yes) => {
                self.metrics.status_writes.inc();
                failed.succeeded(&subject);
                return;
            }
            Ok(Written::NothingToDo) => {
                failed.succeeded(&subject);
                return;
            }
            Ok(Written::Conflict) => {
                let wait = failed.failed(subject.clone(), Instant::now());
                tracing::info!(
                    kind = ?subject.0, object = %subject.1, again_in = ?wait,
                    "the object changed during each attempt to write its status: trying again"
                );
                return;
            }
            Ok(Written::Incomplete) => {
                "the API server dropped a part of it; check whether the installed definitions of \
                 the Gateway API and of Weft are older than this controller"
                    .to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.metrics.status_errors.inc();
        let wait = failed.failed(subject.clone(), Instant::now());
        tracing::warn!(
            kind = ?subject.0, object = %subject.1, error = why, again_in = ?wait,
            "writing a status failed: trying again; check that the controller's account may patch \
             it"
        );
    }

    fn api(&self, due: &Due) -> Option<Api<DynamicObject>> {
        let kinds = &self.kinds;
        let served = match due.subject {
            Subject::GatewayClass => &kinds.gateway_class,
            Subject::Gateway => &kinds.gateway,
            Subject::ListenerSet => &kinds.listener_set,
            Subject::Route(kind) => kinds.route(kind),
            Subject::BackendTlsPolicy => &kinds.backend_tls_policy,
            Subject::AuthorizationPolicy => &kinds.authorization_policy,
            Subject::ClusterAuthorizationPolicy => &kinds.cluster_authorization_policy,
            Subject::AuthenticationPolicy => &kinds.authentication_policy,
            Subject::TrafficPolicy => &kinds.traffic_policy,
            Subject::BackendTrafficPolicy => &kinds.backend_traffic_policy,
        };
        let Served::As(kind) = &*served.borrow() else {
            return None;
        };
        let client = self.client.clone();
        Some(match due.key.namespace.as_str() {
            "" => Api::all_with(client, kind),
            namespace => Api::namespaced_with(client, namespace, kind),
        })
    }

    async fn write(&self, due: &Due) -> Result<Written, KubeError> {
        let Some(api) = self.api(due) else {
            return Ok(Written::NothingToDo);
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            if !*self.leader.borrow() {
                return Ok(Written::NothingToDo);
            }
            let Some(object) = api.get_opt(&due.key.name).await? else {
                return Ok(Written::NothingToDo);
            };
            let Some(change) = patch(&object, due, &now()) else {
                return Ok(Written::NothingToDo);
            };
            let change = Patch::Merge(change);
            match api
                .patch_status(&due.key.name, &kubernetes::patch(), &change)
                .await
            {
                Ok(written) if patch(&written, due, "").is_some() => {
                    return Ok(Written::Incomplete);
                }
                Ok(_) => return Ok(Written::Yes),
                Err(KubeError::Api(status)) if status.code == 409 && attempts < MAX_ATTEMPTS => {}
                Err(KubeError::Api(status)) if status.code == 409 => return Ok(Written::Conflict),
                Err(KubeError::Api(status)) if status.code == 404 => {
                    return Ok(Written::NothingToDo);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

enum Written {
    Yes,
    NothingToDo,
    /// Every attempt conflicted with other writes.
    Conflict,
    /// The API server dropped a part of the status: repeating it at once would not help.
    Incomplete,
}

/// Never resolves if the sender was dropped: the process stops.
async fn pending_if(closed: bool) {
    if closed {
        std::future::pending::<()>().await;
    }
}
