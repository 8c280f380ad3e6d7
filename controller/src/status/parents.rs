//! Events about routes whose parents do not exist: no status can report that, as the parent has no
//! controller.
//!
//! The name of an Event is derived from its content, so that it is created once, whichever replica
//! leads.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::ObjectMeta;
use kube::{Api, Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_api::encode::{DIGEST, digest};
use weft_translate::MissingParents;

use crate::kubernetes::{self, EventKind, event};
use crate::snapshot::Snapshots;
use crate::watch::{Kinds, Served};

/// How long a parent may be missing without an Event: objects that are applied together may arrive
/// in any order.
const GRACE: Duration = Duration::from_secs(5);
/// The interval at which an Event is repeated: the API server keeps Events for an hour.
const AGAIN: Duration = Duration::from_secs(61 * 60);
/// After an Event that could not be written.
const RETRY: Duration = Duration::from_secs(60);
/// The time between rounds, and the Events of one round: many missing parents must not flood the
/// API server.
const PACE: Duration = Duration::from_secs(1);
const ROUND: usize = 16;

/// Writes the Events while this replica leads.
pub struct ParentWatch {
    pub client: Client,
    pub kinds: Kinds,
    pub snapshots: Snapshots,
    pub leader: watch::Receiver<bool>,
    pub stop: CancellationToken,
}

impl ParentWatch {
    /// Runs until `stop`.
    pub async fn run(mut self) {
        let mut schedule = Schedule::default();
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let mut next = None;
            if let Some(snapshot) = snapshot.filter(|_| *self.leader.borrow_and_update()) {
                let missing = &snapshot.missing_parents;
                for place in schedule
                    .due(missing, Instant::now())
                    .into_iter()
                    .take(ROUND)
                {
                    let of = &missing[place];
                    let again = if self.write_event(of).await {
                        AGAIN
                    } else {
                        RETRY
                    };
                    schedule.next_at(of, Instant::now() + again);
                }
                next = schedule.next();
            }
            let waiting = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                changed = self.leader.changed() => if changed.is_err() { return },
                () = waiting => {}
                () = self.stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(PACE) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Returns true if the Event exists.
    async fn write_event(&self, of: &MissingParents) -> bool {
        let (namespace, name) = (&*of.route.namespace, &*of.route.name);
        let Served::As(kind) = self.kinds.route(of.route.kind).borrow().clone() else {
            return false;
        };
        let metadata = ObjectMeta {
            name: Some(event_name(of)),
            ..ObjectMeta::default()
        };
        let object = ObjectReference {
            api_version: Some(kind.api_version),
            kind: Some(kind.kind),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(of.uid.clone()),
            ..ObjectReference::default()
        };
        let event = event(
            metadata,
            object,
            EventKind::Warning,
            "NoMatchingParent",
            &of.message,
        );
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        match api.create(&kubernetes::post(), &event).await {
            Ok(_) => tracing::info!(route = %of.route, "{}", of.message),
            // Schedule before, by this replica or another.
            Err(KubeError::Api(status)) if status.code == 409 => {}
            Err(error) => {
                tracing::info!(
                    route = %of.route, %error,
                    "writing the Event about a missing parent failed: trying again; check that the \
                     controller's account may create Events, and whether the namespace is \
                     terminating"
                );
                return false;
            }
        }
        true
    }
}

/// Returns the Event's name: the same for the same message about the same object.
fn event_name(of: &MissingParents) -> String {
    let digest = digest(digest(DIGEST, of.uid.as_bytes()), of.message.as_bytes());
    // A name has 253 characters at most.
    let name: String = of.route.name.chars().take(200).collect();
    format!("{name}.{digest:016x}")
}

/// When each Event is due, by its namespace and name.
#[derive(Debug, Default)]
struct Schedule(HashMap<String, Instant>);

impl Schedule {
    /// Returns the indices of the missing parents whose Event is due.
    fn due(&mut self, missing: &[MissingParents], now: Instant) -> Vec<usize> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for (place, of) in missing.iter().enumerate() {
            let key = key(of);
            let at = before.remove(&key).unwrap_or(now + GRACE);
            if at <= now {
                due.push(place);
            }
            self.0.insert(key, at);
        }
        due
    }

    fn next_at(&mut self, of: &MissingParents, at: Instant) {
        self.0.insert(key(of), at);
    }

    /// Returns when the next Event is due.
    fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }
}

fn key(of: &MissingParents) -> String {
    format!("{}/{}", of.route.namespace, event_name(of))
}

#[cfg(test)]
mod tests {
    use weft_ir::{RouteId, RouteKind};

    use super::*;

    fn missing(name: &str, message: &str) -> MissingParents {
        MissingParents {
            route: RouteId {
                kind: RouteKind::Http,
                namespace: "shop".into(),
                name: name.into(),
            },
            uid: format!("uid-of-{name}"),
            message: message.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn event_is_written_after_the_grace_and_again_after_an_hour() {
        let mut schedule = Schedule::default();
        let all = [missing("a", "x"), missing("b", "x")];
        assert!(
            schedule.due(&all, Instant::now()).is_empty(),
            "they may come yet"
        );
        assert_eq!(schedule.next(), Some(Instant::now() + GRACE));
        tokio::time::advance(GRACE).await;
        let (came, other) = ([missing("a", "x")], [missing("a", "y")]);
        assert_eq!(schedule.due(&came, Instant::now()), [0], "the other came");
        schedule.next_at(&came[0], Instant::now() + AGAIN);
        assert!(schedule.due(&came, Instant::now()).is_empty(), "written");
        tokio::time::advance(AGAIN).await;
        assert_eq!(schedule.due(&came, Instant::now()), [0], "again");
        assert!(
            schedule.due(&other, Instant::now()).is_empty(),
            "something else"
        );
        tokio::time::advance(GRACE).await;
        assert_eq!(schedule.due(&other, Instant::now()), [0]);
        assert!(schedule.due(&[], Instant::now()).is_empty());
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn event_name_depends_on_object_and_message() {
        let name = event_name(&missing("a", "x"));
        assert_eq!(name, event_name(&missing("a", "x")));
        assert_ne!(name, event_name(&missing("a", "y")));
        let other = MissingParents {
            uid: "another".to_owned(),
            ..missing("a", "x")
        };
        assert_ne!(name, event_name(&other), "created again with the same name");
        assert!(event_name(&missing(&"a".repeat(253), "x")).len() <= 253);
    }
}
