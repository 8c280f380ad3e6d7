//! Writes the statuses of routes while this replica leads: only where they differ, a bounded number at a time.
//!
//! Which routes need a write is decided from the watch; what is written, from the route as the API server has it at
//! that moment, with its resource version: a write that crosses somebody else's is refused and made again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, Error as KubeError};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_ir::RouteKind;
use weft_translate::{ParentStatus, RouteStatus};

use super::merge::{self, Own};
use super::{now, programmed};
use crate::metrics::Metrics;
use crate::snapshot::Snapshots;
use crate::subscribe::Registry;
use crate::watch::{Kinds, ObjectKey, Served, World};

/// Writes under way at a time.
const CONCURRENT: usize = 8;
/// Writes before the latest snapshot is looked at again.
const ROUND: usize = 64;
/// Between two rounds, at least: with [`ROUND`], 640 writes a second at most.
const PACE: Duration = Duration::from_millis(100);
/// Between two writes of the same generation of a route, and from a proxy's word to the write: counts change often.
const COUNTS: Duration = Duration::from_secs(1);
/// Tries of one write against changes of others.
const TRIES: usize = 4;
/// A route that could not be written is tried again after this long, doubled each time up to [`LONGEST_WAIT`].
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Writes what translation says of routes.
pub struct RouteWriter {
    pub client: Client,
    pub kinds: Kinds,
    pub world: Arc<World>,
    pub snapshots: Snapshots,
    pub registry: Registry,
    pub leader: watch::Receiver<bool>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// One route whose status says something else than it should.
#[derive(Clone, Debug, PartialEq)]
struct Due {
    kind: RouteKind,
    key: ObjectKey,
    /// The generation that `parents` speaks of; `None` when only stale entries go.
    generation: Option<i64>,
    parents: Vec<ParentStatus>,
}

/// Routes that could not be written: when to try again, and after how many tries.
type Failed = HashMap<(RouteKind, ObjectKey), (Instant, u32)>;

/// Routes that were written within [`COUNTS`]: when, and of which generation.
#[derive(Debug, Default)]
struct Recent(HashMap<(RouteKind, ObjectKey), (Instant, Option<i64>)>);

impl Recent {
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (at, _)| *at + COUNTS > now);
    }

    fn wrote(&mut self, due: &Due, now: Instant) {
        let route = (due.kind, due.key.clone());
        self.0.insert(route, (now, due.generation));
    }

    /// When the route may be written, if not yet.
    fn put_off(&self, due: &Due) -> Option<Instant> {
        let (at, generation) = self.0.get(&(due.kind, due.key.clone()))?;
        let waits = *generation == due.generation && !programmed::is_urgent(&due.parents);
        waits.then(|| *at + COUNTS)
    }
}

impl RouteWriter {
    /// Until told to stop.
    pub async fn run(mut self) {
        let mut changes = self.world.changes.statuses.subscribe();
        let mut counts = self.registry.destination_changes();
        let mut refusals = self.registry.refusals();
        let (mut failed, mut recent) = (Failed::new(), Recent::default());
        loop {
            counts.mark_unchanged();
            let (more, put_off) = self.round(&mut failed, &mut recent).await;
            let retry = failed.values().map(|(at, _)| *at).chain(put_off).min();
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
        let world = &self.world;
        let mut due: Vec<Due> = [
            (RouteKind::Http, world.http_routes.own_entries()),
            (RouteKind::Grpc, world.grpc_routes.own_entries()),
            (RouteKind::Tls, world.tls_routes.own_entries()),
            (RouteKind::Tcp, world.tcp_routes.own_entries()),
        ]
        .iter()
        .flat_map(|(kind, seen)| due(&statuses, *kind, seen))
        .collect();
        let begin = Instant::now();
        failed.retain(|route, _| {
            due.iter()
                .any(|due| (due.kind, &due.key) == (route.0, &route.1))
        });
        due.retain(|due| {
            let known = failed.get(&(due.kind, due.key.clone()));
            known.is_none_or(|(at, _)| *at <= begin)
        });
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
        let route = (due.kind, due.key);
        match written {
            Ok(Written::Yes) => {
                self.metrics.status_writes.inc();
                failed.remove(&route);
            }
            Ok(Written::NothingToDo) => drop(failed.remove(&route)),
            Err(error) => {
                self.metrics.status_errors.inc();
                let tries = failed.get(&route).map_or(0, |(_, tries)| *tries);
                let wait = WAIT.saturating_mul(1 << tries.min(6)).min(LONGEST_WAIT);
                tracing::warn!(
                    kind = ?route.0, route = %route.1, %error, again_in = ?wait,
                    "the status of a route could not be written; check that the controller's account may patch it"
                );
                failed.insert(route, (Instant::now() + wait, tries + 1));
            }
        }
    }

    fn api(&self, due: &Due) -> Option<Api<DynamicObject>> {
        let served = match due.kind {
            RouteKind::Http => &self.kinds.http_route,
            RouteKind::Grpc => &self.kinds.grpc_route,
            RouteKind::Tls => &self.kinds.tls_route,
            RouteKind::Tcp => &self.kinds.tcp_route,
            // Only Gateways are its parents.
            RouteKind::Udp => return None,
        };
        let Served::As(kind) = &*served.borrow() else {
            return None;
        };
        let kind: &ApiResource = kind;
        Some(Api::namespaced_with(
            self.client.clone(),
            &due.key.namespace,
            kind,
        ))
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
            let Some(route) = api.get_opt(&due.key.name).await? else {
                return Ok(Written::NothingToDo);
            };
            let Some(patch) = patch(&route, due, &now()) else {
                return Ok(Written::NothingToDo);
            };
            let patch = Patch::Merge(patch);
            match api
                .patch_status(&due.key.name, &PatchParams::default(), &patch)
                .await
            {
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
}

/// Pending for ever when there is nobody left to tell of changes: the process is ending.
async fn gone(gone: bool) {
    if gone {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The routes of a kind whose own entries, as the watch last saw them, are not what translation says.
fn due(
    statuses: &[RouteStatus],
    kind: RouteKind,
    seen: &HashMap<ObjectKey, Arc<[Value]>>,
) -> Vec<Due> {
    let mut due = Vec::new();
    let mut spoken_of = std::collections::HashSet::new();
    for status in statuses.iter().filter(|status| status.kind == kind) {
        let key = ObjectKey::new(&status.namespace, &status.name);
        let Some(own) = seen.get(&key) else {
            continue;
        };
        spoken_of.insert(key.clone());
        let wanted = Own {
            parents: &status.parents,
            generation: status.generation,
        };
        if merge::parents(own, wanted, "").is_some() {
            due.push(Due {
                kind,
                key,
                generation: Some(status.generation),
                parents: status.parents.clone(),
            });
        }
    }
    let stale = seen
        .iter()
        .filter(|(key, own)| !own.is_empty() && !spoken_of.contains(*key));
    due.extend(stale.map(|(key, _)| Due {
        kind,
        key: key.clone(),
        generation: None,
        parents: Vec::new(),
    }));
    due
}

/// The patch that makes `route` say what is due; `None` when it does already, or when it has changed since (the watch
/// will tell, and what is due then is another thing).
fn patch(route: &DynamicObject, due: &Due, now: &str) -> Option<Value> {
    let generation = route.metadata.generation.unwrap_or_default();
    if due
        .generation
        .is_some_and(|translated| translated != generation)
    {
        return None;
    }
    let existing = route
        .data
        .pointer("/status/parents")
        .and_then(Value::as_array);
    let own = Own {
        parents: &due.parents,
        generation,
    };
    let parents = merge::parents(existing.map_or(&[], Vec::as_slice), own, now)?;
    Some(json!({
        "metadata": {"resourceVersion": route.metadata.resource_version},
        "status": {"parents": parents},
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use weft_translate::Condition;
    use weft_translate::objects::ParentRef;

    fn status(generation: i64) -> RouteStatus {
        let condition = Condition {
            kind: "Accepted".into(),
            status: true,
            reason: "Accepted".into(),
            message: String::new(),
        };
        let parent_ref = ParentRef {
            name: "reviews".into(),
            ..ParentRef::default()
        };
        RouteStatus {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "r".into(),
            generation,
            parents: vec![ParentStatus {
                parent_ref,
                controller: weft_translate::Controller::Mesh,
                conditions: vec![condition],
            }],
        }
    }

    fn seen(own: Vec<Value>) -> HashMap<ObjectKey, Arc<[Value]>> {
        HashMap::from([(ObjectKey::new("shop", "r"), own.into())])
    }

    fn route(generation: i64, parents: Vec<Value>) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop", "generation": generation, "resourceVersion": "7"},
            "spec": {}, "status": {"parents": parents},
        }))
        .unwrap()
    }

    #[test]
    fn a_route_is_due_until_its_status_says_what_it_should() {
        let due = due(&[status(2)], RouteKind::Http, &seen(vec![]));
        assert_eq!(due.len(), 1);
        let patch = patch(&route(2, vec![]), &due[0], "2024-01-01T00:00:00Z").unwrap();
        assert_eq!(
            patch.pointer("/metadata/resourceVersion"),
            Some(&json!("7"))
        );
        let written = patch
            .pointer("/status/parents")
            .unwrap()
            .as_array()
            .unwrap()
            .clone();
        assert_eq!(
            self::due(&[status(2)], RouteKind::Http, &seen(written.clone())),
            []
        );
        assert_eq!(self::patch(&route(2, written), &due[0], "later"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_wait_a_second_and_refusals_and_new_generations_do_not() {
        let of = |generation| due(&[status(generation)], RouteKind::Http, &seen(vec![])).remove(0);
        let mut recent = Recent::default();
        assert_eq!(recent.put_off(&of(2)), None);
        recent.wrote(&of(2), Instant::now());
        assert_eq!(recent.put_off(&of(2)), Some(Instant::now() + COUNTS));
        assert_eq!(recent.put_off(&of(3)), None);
        let mut refused = of(2);
        refused.parents[0].conditions.push(Condition {
            kind: "weft.dev/Programmed".into(),
            status: false,
            reason: "Refused".into(),
            message: String::new(),
        });
        assert_eq!(recent.put_off(&refused), None);
        tokio::time::advance(COUNTS).await;
        recent.forget(Instant::now());
        assert_eq!(recent.put_off(&of(2)), None);
    }

    #[test]
    fn a_route_that_changed_since_is_left_for_its_own_translation() {
        let due = due(&[status(2)], RouteKind::Http, &seen(vec![]));
        assert_eq!(patch(&route(3, vec![]), &due[0], "now"), None);
    }

    #[test]
    fn entries_of_a_route_that_is_no_longer_ours_are_due_to_go() {
        let own = json!({"controllerName": crate::CONTROLLER_NAME, "parentRef": {"name": "x"}});
        let due = due(&[], RouteKind::Http, &seen(vec![own.clone()]));
        assert_eq!(due.len(), 1);
        let foreign = json!({"controllerName": "other.dev/c"});
        let patch = patch(&route(9, vec![own, foreign.clone()]), &due[0], "now").unwrap();
        assert_eq!(patch.pointer("/status/parents"), Some(&json!([foreign])));
    }

    #[test]
    fn a_route_that_is_gone_is_due_nothing() {
        assert_eq!(due(&[status(1)], RouteKind::Http, &HashMap::new()), []);
        assert_eq!(due(&[status(1)], RouteKind::Grpc, &seen(vec![])), []);
    }
}
