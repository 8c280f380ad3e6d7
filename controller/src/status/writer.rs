//! Writes the statuses of Gateways, routes and policies while this replica leads: only where they differ, a bounded
//! number at a time.
//!
//! Which objects need a write is decided from the watch; what is written, from the object as the API server has it at
//! that moment, with its resource version: a write that crosses somebody else's is refused and made again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_ir::RouteKind;

use super::due::{self, Due, Subject, patch};
use super::{now, programmed};
use crate::metrics::Metrics;
use crate::provision::Obstacles;
use crate::retries::{Retries, sleep_until};
use crate::snapshot::Snapshots;
use crate::subscribe::Registry;
use crate::watch::{Kinds, ObjectKey, Served, World};

/// Writes under way at a time.
const CONCURRENT: usize = 8;
/// Writes before the latest snapshot is looked at again.
const ROUND: usize = 64;
/// Between two rounds, at least: with [`ROUND`], 640 writes a second at most.
const PACE: Duration = Duration::from_millis(100);
/// Between two writes of the same generation of a route or a policy, and from a proxy's word to the write: counts change often.
const COUNTS: Duration = Duration::from_secs(1);
/// Tries of one write against changes of others.
const TRIES: usize = 4;

/// Writes what translation says of Gateways, routes and policies, and what became of it.
pub struct StatusWriter {
    pub client: Client,
    pub kinds: Kinds,
    pub world: Arc<World>,
    pub snapshots: Snapshots,
    pub registry: Registry,
    /// Why Gateways do not have what they run on.
    pub obstacles: watch::Receiver<Obstacles>,
    pub leader: watch::Receiver<bool>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// What could not be written.
type Failed = Retries<(Subject, ObjectKey)>;

/// What was written within [`COUNTS`]: when, and of which generation.
#[derive(Debug, Default)]
struct Recent(HashMap<(Subject, ObjectKey), (Instant, Option<i64>)>);

impl Recent {
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (at, _)| *at + COUNTS > now);
    }

    fn wrote(&mut self, due: &Due, now: Instant) {
        let subject = (due.subject, due.key.clone());
        self.0.insert(subject, (now, due.generation));
    }

    /// When the status may be written, if not yet.
    fn put_off(&self, due: &Due) -> Option<Instant> {
        let (at, generation) = self.0.get(&(due.subject, due.key.clone()))?;
        let waits = *generation == due.generation && !due.content.is_urgent();
        waits.then(|| *at + COUNTS)
    }
}

impl StatusWriter {
    /// Until told to stop.
    pub async fn run(mut self) {
        let mut changes = self.world.changes.statuses.subscribe();
        let mut counts = self.registry.destination_changes();
        let mut refusals = self.registry.refusals();
        let (mut failed, mut recent) = (Failed::default(), Recent::default());
        loop {
            counts.mark_unchanged();
            let (more, put_off) = self.round(&mut failed, &mut recent).await;
            let retry = failed.next().into_iter().chain(put_off).min();
            let counted = async {
                let changed = counts.changed().await;
                tokio::time::sleep(COUNTS).await;
                changed
            };
            let waiting = async {
                tokio::select! {
                    () = std::future::ready(()), if more => {}
                    changed = self.snapshots.changed() => gone(changed.is_err()).await,
                    changed = changes.changed() => gone(changed.is_err()).await,
                    changed = self.leader.changed() => gone(changed.is_err()).await,
                    changed = self.obstacles.changed() => gone(changed.is_err()).await,
                    changed = counted => gone(changed.is_err()).await,
                    changed = refusals.changed() => gone(changed.is_err()).await,
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

    /// Writes what is due, up to [`ROUND`]; whether more is due, and when what was put off.
    async fn round(&mut self, failed: &mut Failed, recent: &mut Recent) -> (bool, Option<Instant>) {
        if !*self.leader.borrow_and_update() {
            return (false, None);
        }
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else {
            return (false, None);
        };
        let statuses = programmed::statuses(&snapshot, &self.registry);
        let obstacles = Arc::clone(&self.obstacles.borrow_and_update());
        let mut due = due::all(&snapshot, &statuses, &obstacles, &self.world);
        let begin = Instant::now();
        failed.retain(|(subject, key)| {
            due.iter()
                .any(|due| (due.subject, &due.key) == (*subject, key))
        });
        due.retain(|due| failed.is_due(&(due.subject, due.key.clone()), begin));
        recent.forget(begin);
        let mut put_off = None;
        due.retain(|due| match recent.put_off(due) {
            Some(at) => {
                put_off = Some(put_off.map_or(at, |first: Instant| first.min(at)));
                false
            }
            None => true,
        });
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
                recent.wrote(&due, Instant::now());
            }
            self.note(due, written, failed);
        }
        (more, put_off)
    }

    fn note(&self, due: Due, written: Result<Written, KubeError>, failed: &mut Failed) {
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
            Ok(Written::NotKept) => {
                "the API server did not keep all of it: are the Gateway API's definitions older than their kinds' \
                 statuses here?"
                    .to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.metrics.status_errors.inc();
        let wait = failed.failed(subject.clone(), Instant::now());
        tracing::warn!(
            kind = ?subject.0, object = %subject.1, error = why, again_in = ?wait,
            "a status could not be written; check that the controller's account may patch it"
        );
    }

    fn api(&self, due: &Due) -> Option<Api<DynamicObject>> {
        let kinds = &self.kinds;
        let served = match due.subject {
            Subject::GatewayClass => &kinds.gateway_class,
            Subject::Gateway => &kinds.gateway,
            Subject::ListenerSet => &kinds.listener_set,
            Subject::Route(RouteKind::Http) => &kinds.http_route,
            Subject::Route(RouteKind::Grpc) => &kinds.grpc_route,
            Subject::Route(RouteKind::Tls) => &kinds.tls_route,
            Subject::Route(RouteKind::Tcp) => &kinds.tcp_route,
            Subject::Route(RouteKind::Udp) => &kinds.udp_route,
            Subject::BackendTlsPolicy => &kinds.backend_tls_policy,
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
        let mut tries = 0;
        loop {
            tries += 1;
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
                .patch_status(&due.key.name, &PatchParams::default(), &change)
                .await
            {
                Ok(written) if patch(&written, due, "").is_some() => return Ok(Written::NotKept),
                Ok(_) => return Ok(Written::Yes),
                Err(KubeError::Api(status)) if status.code == 409 && tries < TRIES => {}
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
    /// What was written is not all there afterwards: trying again at once would not help.
    NotKept,
}

/// Pending for ever when there is nobody left to tell of changes: the process is ending.
async fn gone(gone: bool) {
    if gone {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::due::Content;
    use super::super::merge::{Entry, List};
    use super::*;
    use serde_json::json;
    use weft_translate::Condition;

    fn due(generation: i64, reason: &str) -> Due {
        let condition = Condition {
            kind: "weft.dev/Programmed".into(),
            status: false,
            reason: reason.into(),
            message: String::new(),
        };
        let entry = Entry {
            reference: json!({"name": "reviews"}),
            controller: crate::CONTROLLER_NAME,
            conditions: vec![condition],
        };
        Due {
            subject: Subject::Route(RouteKind::Http),
            key: ObjectKey::new("shop", "r"),
            generation: Some(generation),
            content: Content::Entries(List::Parents, vec![entry]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn counts_wait_a_second_and_refusals_and_new_generations_do_not() {
        let mut recent = Recent::default();
        assert_eq!(recent.put_off(&due(2, "Pending")), None);
        recent.wrote(&due(2, "Pending"), Instant::now());
        let put_off = recent.put_off(&due(2, "Pending"));
        assert_eq!(put_off, Some(Instant::now() + COUNTS));
        assert_eq!(recent.put_off(&due(3, "Pending")), None);
        assert_eq!(recent.put_off(&due(2, "Refused")), None);
        tokio::time::advance(COUNTS).await;
        recent.forget(Instant::now());
        assert_eq!(recent.put_off(&due(2, "Pending")), None);
    }
}
