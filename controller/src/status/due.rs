//! Which statuses say something else than they should, and the patch that makes one right. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};
use weft_ir::{GatewayId, RouteKind};
use weft_translate::{Condition, RouteStatus};

use super::listening::Listening;
use super::merge::{self, Entry, List, Of, Whole};
use super::{features, programmed};
use crate::snapshot::Snapshot;
use crate::watch::{ObjectKey, World};

/// The kinds whose statuses are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    GatewayClass,
    Gateway,
    ListenerSet,
    Route(RouteKind),
    BackendTlsPolicy,
}

/// What a status is to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Entries(List, Vec<Entry>),
    Whole(Whole),
}

impl Content {
    /// The status with what differs from `existing`; `None` when nothing does.
    fn merged(&self, existing: Option<&Value>, generation: i64, now: &str) -> Option<Value> {
        match self {
            Self::Whole(own) => merge::whole(existing, own, generation, now),
            Self::Entries(list, own) => {
                let existing = existing.and_then(|status| status.get(list.name())?.as_array());
                let existing = existing.map_or(&[][..], Vec::as_slice);
                let merged = merge::entries(*list, existing, own, generation, now)?;
                Some(json!({ list.name(): merged }))
            }
        }
    }

    /// Whether it says of proxies that they are behind, and of none that it refused.
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Entries(_, own) => {
                let mut entries = own.iter();
                !self.is_urgent() && entries.any(|entry| programmed::is_pending(&entry.conditions))
            }
            Self::Whole(_) => false,
        }
    }

    /// Hashes what it says, but for counts of proxies.
    pub(super) fn but_for_counts(&self, hasher: &mut impl Hasher) {
        let Self::Entries(_, own) = self else {
            return;
        };
        for entry in own {
            entry.reference.to_string().hash(hasher);
            for condition in &entry.conditions {
                let Condition {
                    kind,
                    status,
                    reason,
                    message,
                } = condition;
                (kind, status, reason).hash(hasher);
                if !programmed::counts_proxies(condition) {
                    message.hash(hasher);
                }
            }
        }
    }

    /// Whether it cannot wait for further changes of counts.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Entries(_, own) => own
                .iter()
                .any(|entry| programmed::is_urgent(&entry.conditions)),
            Self::Whole(_) => true,
        }
    }
}

/// One object whose status says something else than it should.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    pub(super) subject: Subject,
    pub(super) key: ObjectKey,
    /// The generation that `content` speaks of; `None` when only stale entries go.
    pub(super) generation: Option<i64>,
    pub(super) content: Content,
}

/// What the objects of one kind say of themselves: our own part of their statuses, as the watch last saw it.
pub(super) type Seen = HashMap<ObjectKey, Arc<[Value]>>;

/// Everything that is due. `routes` are the snapshot's, with what proxies say of them.
pub(super) fn all(
    snapshot: &Snapshot,
    routes: &[RouteStatus],
    listening: &Listening,
    obstacles: &BTreeMap<GatewayId, String>,
    world: &World,
) -> Vec<Due> {
    let mut due = of_classes(snapshot, &world.gateway_classes.own_entries());
    due.extend(of_gateways(
        snapshot,
        listening,
        obstacles,
        &world.gateways.own_entries(),
    ));
    due.extend(of_listener_sets(
        snapshot,
        listening,
        &world.listener_sets.own_entries(),
    ));
    for (kind, seen) in [
        (RouteKind::Http, world.http_routes.own_entries()),
        (RouteKind::Grpc, world.grpc_routes.own_entries()),
        (RouteKind::Tls, world.tls_routes.own_entries()),
        (RouteKind::Tcp, world.tcp_routes.own_entries()),
        (RouteKind::Udp, world.udp_routes.own_entries()),
    ] {
        due.extend(of_routes(routes, kind, &seen));
    }
    due.extend(of_policies(
        snapshot,
        &world.backend_tls_policies.own_entries(),
    ));
    due
}

fn of_classes(snapshot: &Snapshot, seen: &Seen) -> Vec<Due> {
    let classes = snapshot.gateway_classes.iter().map(|class| {
        let features = features::GATEWAY.iter().map(|name| json!({ "name": name }));
        let fields = [("supportedFeatures".to_owned(), features.collect())];
        let own = Whole {
            of: Of::Class,
            conditions: class.conditions.clone(),
            fields: Map::from_iter(fields),
            listeners: None,
        };
        (ObjectKey::new("", &class.name), class.generation, own)
    });
    due_whole(Subject::GatewayClass, classes, seen)
}

fn of_gateways(
    snapshot: &Snapshot,
    listening: &Listening,
    obstacles: &BTreeMap<GatewayId, String>,
    seen: &Seen,
) -> Vec<Due> {
    let gateways = snapshot.gateways.iter().map(|gateway| {
        let addresses = gateway.addresses.iter().map(|address| {
            json!({
                "type": address.kind.as_str(),
                "value": address.value,
                "routability": address.routability.as_str(),
            })
        });
        let fields = [
            ("addresses".to_owned(), addresses.collect()),
            (
                "attachedListenerSets".to_owned(),
                json!(gateway.attached_listener_sets),
            ),
        ];
        let mut conditions = gateway.conditions.clone();
        if let Some(obstacle) = obstacles.get(&gateway.id) {
            obstruct(&mut conditions, obstacle);
        }
        let key = ObjectKey::new(&*gateway.id.namespace, &*gateway.id.name);
        let before = seen.get(&key).and_then(|of| of.first());
        let listeners = listening.of(&gateway.id, &gateway.listeners, before, gateway.generation);
        let own = Whole {
            of: Of::Gateway,
            conditions,
            fields: Map::from_iter(fields),
            listeners: Some(listeners),
        };
        (key, gateway.generation, own)
    });
    due_whole(Subject::Gateway, gateways, seen)
}

/// A Gateway that lacks what it runs on is not programmed.
fn obstruct(conditions: &mut [Condition], obstacle: &str) {
    for condition in conditions {
        if condition.kind == "Programmed" {
            condition.status = false;
            condition.reason = "NoResources".to_owned();
            condition.message = obstacle.to_owned();
        }
    }
}

fn of_listener_sets(snapshot: &Snapshot, listening: &Listening, seen: &Seen) -> Vec<Due> {
    let sets = snapshot.listener_sets.iter().map(|set| {
        let key = ObjectKey::new(&set.namespace, &set.name);
        let before = seen.get(&key).and_then(|of| of.first());
        let listeners = listening.of(&set.gateway, &set.listeners, before, set.generation);
        let own = Whole {
            of: Of::ListenerSet,
            conditions: set.conditions.clone(),
            fields: Map::new(),
            listeners: Some(listeners),
        };
        (key, set.generation, own)
    });
    due_whole(Subject::ListenerSet, sets, seen)
}

fn of_routes(statuses: &[RouteStatus], kind: RouteKind, seen: &Seen) -> Vec<Due> {
    let routes = statuses.iter().filter(|status| status.kind == kind);
    let routes = routes.map(|status| {
        let key = ObjectKey::new(&status.namespace, &status.name);
        let own = status.parents.iter().map(Entry::from).collect();
        (key, status.generation, own)
    });
    due_entries(Subject::Route(kind), List::Parents, routes, seen)
}

fn of_policies(snapshot: &Snapshot, seen: &Seen) -> Vec<Due> {
    let policies = snapshot.policies.iter().map(|policy| {
        let key = ObjectKey::new(&policy.namespace, &policy.name);
        let own = policy.ancestors.iter().map(Entry::from).collect();
        (key, policy.generation, own)
    });
    due_entries(Subject::BackendTlsPolicy, List::Ancestors, policies, seen)
}

fn due_whole(
    subject: Subject,
    wanted: impl Iterator<Item = (ObjectKey, i64, Whole)>,
    seen: &Seen,
) -> Vec<Due> {
    let due = wanted.filter_map(|(key, generation, own)| {
        let there = seen.get(&key)?;
        let content = Content::Whole(own);
        content.merged(there.first(), generation, "")?;
        Some(Due {
            subject,
            key,
            generation: Some(generation),
            content,
        })
    });
    due.collect()
}

/// Of those that are to have entries, and of those that still have some of ours and should not.
fn due_entries(
    subject: Subject,
    list: List,
    wanted: impl Iterator<Item = (ObjectKey, i64, Vec<Entry>)>,
    seen: &Seen,
) -> Vec<Due> {
    let mut due = Vec::new();
    let mut spoken_of = HashSet::new();
    for (key, generation, own) in wanted {
        let Some(there) = seen.get(&key) else {
            continue;
        };
        spoken_of.insert(key.clone());
        if merge::entries(list, there, &own, generation, "").is_some() {
            due.push(Due {
                subject,
                key,
                generation: Some(generation),
                content: Content::Entries(list, own),
            });
        }
    }
    let stale = seen
        .iter()
        .filter(|(key, there)| !there.is_empty() && !spoken_of.contains(*key));
    due.extend(stale.map(|(key, _)| Due {
        subject,
        key: key.clone(),
        generation: None,
        content: Content::Entries(list, Vec::new()),
    }));
    due
}

/// The patch that makes `object` say what is due; `None` when it does already, or when it has changed since (the watch
/// will tell, and what is due then is another thing).
pub(super) fn patch(object: &DynamicObject, due: &Due, now: &str) -> Option<Value> {
    let generation = object.metadata.generation.unwrap_or_default();
    if due
        .generation
        .is_some_and(|translated| translated != generation)
    {
        return None;
    }
    let status = due
        .content
        .merged(object.data.get("status"), generation, now)?;
    Some(json!({
        "metadata": { "resourceVersion": object.metadata.resource_version },
        "status": status,
    }))
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
