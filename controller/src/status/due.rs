//! Finds the statuses that are out of date, and makes their patches. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};
use weft_ir::{GatewayId, PolicyKind, RouteKind};
use weft_translate::{
    AncestorStatus, AuthorizationStatus, Condition, PolicyStatus, RouteStatus, TrafficPolicyStatus,
};

use super::listening::Listening;
use super::merge::{self, ConditionOwner, Entry, List, Whole};
use super::{features, programmed};
use crate::names::CONTROLLER_NAME;
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
    AuthorizationPolicy,
    ClusterAuthorizationPolicy,
    AuthenticationPolicy,
    TrafficPolicy,
    BackendTrafficPolicy,
}

/// The wanted content of a status.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Entries(List, Vec<Entry>),
    Whole(Whole),
}

impl Content {
    /// Returns the merged status; `None` if `existing` is up to date.
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

    /// Returns true if proxies are pending, and none has rejected.
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Entries(_, own) => {
                let mut entries = own.iter();
                !self.is_urgent() && entries.any(|entry| programmed::is_pending(&entry.conditions))
            }
            Self::Whole(_) => false,
        }
    }

    /// Hashes the content without its counts of proxies.
    pub(super) fn hash_without_counts(&self, hasher: &mut impl Hasher) {
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

    /// Returns true if the write must not be deferred.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Entries(_, own) => own
                .iter()
                .any(|entry| programmed::is_urgent(&entry.conditions)),
            Self::Whole(_) => true,
        }
    }
}

/// An object whose status is out of date.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    pub(super) subject: Subject,
    pub(super) key: ObjectKey,
    /// The generation that `content` is about; `None` if only stale entries are removed.
    pub(super) generation: Option<i64>,
    pub(super) content: Content,
}

/// The existing statuses of one kind: this controller's entries, as last watched.
pub(super) type Existing = HashMap<ObjectKey, Arc<[Value]>>;

/// The statuses of a snapshot with the conditions from proxies.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a> {
    pub(super) routes: &'a [RouteStatus],
    pub(super) authorizations: &'a [AuthorizationStatus],
    pub(super) traffic: &'a [TrafficPolicyStatus],
}

/// Returns every status that is due.
pub(super) fn all(
    snapshot: &Snapshot,
    counted: Counted<'_>,
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
    for (kind, existing) in [
        (RouteKind::Http, world.http_routes.own_entries()),
        (RouteKind::Grpc, world.grpc_routes.own_entries()),
        (RouteKind::Tls, world.tls_routes.own_entries()),
        (RouteKind::Tcp, world.tcp_routes.own_entries()),
        (RouteKind::Udp, world.udp_routes.own_entries()),
    ] {
        due.extend(of_routes(counted.routes, kind, &existing));
    }
    due.extend(of_policies(
        Subject::BackendTlsPolicy,
        &snapshot.policies,
        &world.backend_tls_policies.own_entries(),
    ));
    let (on_tokens, authorizations) = counted
        .authorizations
        .iter()
        .partition::<Vec<_>, _>(|of| of.id.kind == PolicyKind::Authentication);
    let (of_cluster, of_namespaces) = authorizations
        .into_iter()
        .partition::<Vec<_>, _>(|of| of.id.namespace.is_none());
    due.extend(of_authorizations(
        Subject::AuthenticationPolicy,
        &on_tokens,
        &world.authentication_policies.own_entries(),
    ));
    due.extend(of_authorizations(
        Subject::ClusterAuthorizationPolicy,
        &of_cluster,
        &world.cluster_authorization_policies.own_entries(),
    ));
    due.extend(of_authorizations(
        Subject::AuthorizationPolicy,
        &of_namespaces,
        &world.authorization_policies.own_entries(),
    ));
    let traffic = counted.traffic.iter().map(|status| {
        let key = ObjectKey::new(&*status.id.namespace, &*status.id.name);
        (key, status.generation, &*status.ancestors)
    });
    due.extend(of_own_policies(
        Subject::TrafficPolicy,
        traffic,
        &world.traffic_policies.own_entries(),
    ));
    due.extend(of_policies(
        Subject::BackendTrafficPolicy,
        &snapshot.backend_traffic,
        &world.backend_traffic_policies.own_entries(),
    ));
    due
}

fn of_classes(snapshot: &Snapshot, existing: &Existing) -> Vec<Due> {
    let classes = snapshot.gateway_classes.iter().map(|class| {
        let features = features::GATEWAY.iter().map(|name| json!({ "name": name }));
        let fields = [("supportedFeatures".to_owned(), features.collect())];
        let own = Whole {
            of: ConditionOwner::Class,
            conditions: class.conditions.clone(),
            fields: Map::from_iter(fields),
            listeners: None,
        };
        (ObjectKey::new("", &class.name), class.generation, own)
    });
    due_whole(Subject::GatewayClass, classes, existing)
}

fn of_gateways(
    snapshot: &Snapshot,
    listening: &Listening,
    obstacles: &BTreeMap<GatewayId, String>,
    existing: &Existing,
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
        let before = existing.get(&key).and_then(|of| of.first());
        let listeners = listening.of(&gateway.id, &gateway.listeners, before, gateway.generation);
        let own = Whole {
            of: ConditionOwner::Gateway,
            conditions,
            fields: Map::from_iter(fields),
            listeners: Some(listeners),
        };
        (key, gateway.generation, own)
    });
    due_whole(Subject::Gateway, gateways, existing)
}

/// Sets Programmed to False for a Gateway that lacks an object that it runs on.
fn obstruct(conditions: &mut [Condition], obstacle: &str) {
    for condition in conditions {
        if condition.kind == "Programmed" {
            condition.status = false;
            condition.reason = "NoResources".to_owned();
            condition.message = obstacle.to_owned();
        }
    }
}

fn of_listener_sets(snapshot: &Snapshot, listening: &Listening, existing: &Existing) -> Vec<Due> {
    let sets = snapshot.listener_sets.iter().map(|set| {
        let key = ObjectKey::new(&set.namespace, &set.name);
        let before = existing.get(&key).and_then(|of| of.first());
        let listeners = listening.of(&set.gateway, &set.listeners, before, set.generation);
        let own = Whole {
            of: ConditionOwner::ListenerSet,
            conditions: set.conditions.clone(),
            fields: Map::new(),
            listeners: Some(listeners),
        };
        (key, set.generation, own)
    });
    due_whole(Subject::ListenerSet, sets, existing)
}

fn of_routes(statuses: &[RouteStatus], kind: RouteKind, existing: &Existing) -> Vec<Due> {
    let routes = statuses.iter().filter(|status| status.kind == kind);
    let routes = routes.map(|status| {
        let key = ObjectKey::new(&status.namespace, &status.name);
        let own = status.parents.iter().map(Entry::from).collect();
        (key, status.generation, own)
    });
    due_entries(Subject::Route(kind), List::Parents, routes, existing)
}

fn of_policies(subject: Subject, statuses: &[PolicyStatus], existing: &Existing) -> Vec<Due> {
    let policies = statuses.iter().map(|policy| {
        let key = ObjectKey::new(&policy.namespace, &policy.name);
        let own = policy.ancestors.iter().map(Entry::from).collect();
        (key, policy.generation, own)
    });
    due_entries(subject, List::Ancestors, policies, existing)
}

fn of_authorizations(
    subject: Subject,
    statuses: &[&AuthorizationStatus],
    existing: &Existing,
) -> Vec<Due> {
    let policies = statuses.iter().map(|status| {
        let namespace = status.id.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, &*status.id.name);
        (key, status.generation, &*status.ancestors)
    });
    of_own_policies(subject, policies, existing)
}

/// Returns the due statuses of policies of Weft's own kinds.
fn of_own_policies<'a>(
    subject: Subject,
    statuses: impl Iterator<Item = (ObjectKey, i64, &'a [AncestorStatus])>,
    existing: &Existing,
) -> Vec<Due> {
    let wanted = statuses.map(|(key, generation, ancestors)| {
        let own = ancestors.iter().map(|ancestor| Entry {
            controller: CONTROLLER_NAME,
            ..Entry::from(ancestor)
        });
        (key, generation, own.collect())
    });
    due_entries(subject, List::Ancestors, wanted, existing)
}

fn due_whole(
    subject: Subject,
    wanted: impl Iterator<Item = (ObjectKey, i64, Whole)>,
    existing: &Existing,
) -> Vec<Due> {
    let due = wanted.filter_map(|(key, generation, own)| {
        let there = existing.get(&key)?;
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

/// Returns the objects whose entries are out of date, and those with stale entries.
fn due_entries(
    subject: Subject,
    list: List,
    wanted: impl Iterator<Item = (ObjectKey, i64, Vec<Entry>)>,
    existing: &Existing,
) -> Vec<Due> {
    let mut due = Vec::new();
    let mut wanted_keys = HashSet::new();
    for (key, generation, own) in wanted {
        let Some(there) = existing.get(&key) else {
            continue;
        };
        wanted_keys.insert(key.clone());
        if merge::entries(list, there, &own, generation, "").is_some() {
            due.push(Due {
                subject,
                key,
                generation: Some(generation),
                content: Content::Entries(list, own),
            });
        }
    }
    let stale = existing
        .iter()
        .filter(|(key, there)| !there.is_empty() && !wanted_keys.contains(*key));
    due.extend(stale.map(|(key, _)| Due {
        subject,
        key: key.clone(),
        generation: None,
        content: Content::Entries(list, Vec::new()),
    }));
    due
}

/// Returns the patch of an object that is due; `None` if its status is up to date, or if its
/// generation has changed since: the watch shows it then, and it is translated again.
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
