//! Events about routes whose parents do not exist: no status may speak of a Gateway that is nobody's.
//!
//! An Event is named after what it says, so that it is there once, whoever leads.

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

use crate::events::event;
use crate::kubernetes;
use crate::snapshot::Snapshots;
use crate::watch::{Kinds, Served};

/// What is applied together need not come in its order: only what is missing for longer is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// The API server keeps Events for an hour; what is still missing then is told again.
const AGAIN: Duration = Duration::from_secs(61 * 60);
/// After one that could not be written.
const RETRY: Duration = Duration::from_secs(60);
/// Between two rounds, and how many Events there are in one: an upgrade gone wrong is no flood.
const PACE: Duration = Duration::from_secs(1);
const ROUND: usize = 16;

/// Tells of them while this replica leads.
pub struct ParentWatch {
    pub client: Client,
    pub kinds: Kinds,
    pub snapshots: Snapshots,
    pub leader: watch::Receiver<bool>,
    pub stop: CancellationToken,
}

impl ParentWatch {
    /// Until told to stop.
    pub async fn run(mut self) {
        let mut told = Told::default();
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let mut next = None;
            if let Some(snapshot) = snapshot.filter(|_| *self.leader.borrow_and_update()) {
                let missing = &snapshot.missing_parents;
                for place in told.due(missing, Instant::now()).into_iter().take(ROUND) {
                    let of = &missing[place];
                    let again = if self.tell(of).await { AGAIN } else { RETRY };
                    told.next_at(of, Instant::now() + again);
                }
                next = told.next();
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

    /// Whether it is told.
    async fn tell(&self, of: &MissingParents) -> bool {
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
        let event = event(metadata, object, true, "NoMatchingParent", &of.message);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        match api.create(&kubernetes::post(), &event).await {
            Ok(_) => tracing::info!(route = %of.route, "{}", of.message),
            // Told before, by this replica or another.
            Err(KubeError::Api(status)) if status.code == 409 => {}
            Err(error) => {
                tracing::info!(
                    route = %of.route, %error,
                    "no Event written of a parent that does not exist; check that the controller's account may create them, \
                     and that the namespace is not on its way out"
                );
                return false;
            }
        }
        true
    }
}

/// The same for the same words about the same object.
fn event_name(of: &MissingParents) -> String {
    let digest = digest(digest(DIGEST, of.uid.as_bytes()), of.message.as_bytes());
    // A name has room for 253 characters.
    let name: String = of.route.name.chars().take(200).collect();
    format!("{name}.{digest:016x}")
}

/// When what is missing is to be told, by the Event's namespace and name.
#[derive(Debug, Default)]
struct Told(HashMap<String, Instant>);

impl Told {
    /// The places of those that are to be told now.
    fn due(&mut self, missing: &[MissingParents], now: Instant) -> Vec<usize> {
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for (place, of) in missing.iter().enumerate() {
            let key = key(of);
            let at = before.remove(&key).unwrap_or(now + PATIENCE);
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

    /// When the first of them is due.
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
    async fn what_stays_missing_is_told_once_and_again_after_an_hour() {
        let mut told = Told::default();
        let all = [missing("a", "x"), missing("b", "x")];
        assert!(
            told.due(&all, Instant::now()).is_empty(),
            "they may come yet"
        );
        assert_eq!(told.next(), Some(Instant::now() + PATIENCE));
        tokio::time::advance(PATIENCE).await;
        let (came, other) = ([missing("a", "x")], [missing("a", "y")]);
        assert_eq!(told.due(&came, Instant::now()), [0], "the other came");
        told.next_at(&came[0], Instant::now() + AGAIN);
        assert!(told.due(&came, Instant::now()).is_empty(), "told");
        tokio::time::advance(AGAIN).await;
        assert_eq!(told.due(&came, Instant::now()), [0], "again");
        assert!(
            told.due(&other, Instant::now()).is_empty(),
            "something else"
        );
        tokio::time::advance(PATIENCE).await;
        assert_eq!(told.due(&other, Instant::now()), [0]);
        assert!(told.due(&[], Instant::now()).is_empty());
        assert_eq!(told.next(), None);
    }

    #[test]
    fn an_events_name_says_of_what_object_and_what() {
        let name = event_name(&missing("a", "x"));
        assert_eq!(name, event_name(&missing("a", "x")));
        assert_ne!(name, event_name(&missing("a", "y")));
        let other = MissingParents {
            uid: "another".to_owned(),
            ..missing("a", "x")
        };
        assert_ne!(name, event_name(&other), "made anew under its name");
        assert!(event_name(&missing(&"a".repeat(253), "x")).len() <= 253);
    }
}
