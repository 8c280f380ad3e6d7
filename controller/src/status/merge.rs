//! Merges statuses: the entries and conditions of this controller are as translation has them, all
//! others stay.
//!
//! Source: Gateway API v1.7.0, RouteStatus and PolicyStatus ("a controller must only update entries
//! with its own controllerName"), and `GatewayStatus.conditions` and `ListenerStatus.conditions`:
//! conditions of types that a controller is not responsible for are neither removed nor changed.

use serde_json::{Map, Value, json};
use weft_translate::{AncestorStatus, Condition, Controller, ListenerStatus, ParentStatus};

use crate::names::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME};
use crate::watch::object::is_own;

/// The lists of a status that several controllers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// The parents of a route.
    Parents,
    /// The ancestors of a policy.
    Ancestors,
}

impl List {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Parents => "parents",
            Self::Ancestors => "ancestors",
        }
    }

    /// The field of an entry with the object that the entry is about.
    fn reference(self) -> &'static str {
        match self {
            Self::Parents => "parentRef",
            Self::Ancestors => "ancestorRef",
        }
    }

    fn of(self) -> ConditionOwner {
        match self {
            Self::Parents => ConditionOwner::Parent,
            Self::Ancestors => ConditionOwner::Ancestor,
        }
    }
}

/// What a list of conditions is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ConditionOwner {
    #[default]
    Class,
    Gateway,
    Listener,
    ListenerSet,
    /// A parent of a route.
    Parent,
    /// An ancestor of a policy.
    Ancestor,
    Mesh,
}

impl ConditionOwner {
    /// Returns the types without a domain that this controller is responsible for: one that it does
    /// not set is removed. Other types are kept, except those of its own domain.
    fn own_types(self) -> &'static [&'static str] {
        match self {
            Self::Class | Self::Mesh => &["Accepted"],
            Self::Gateway => &[
                "Accepted",
                "AddressesAssigned",
                "InsecureFrontendValidationMode",
                "Programmed",
                "ResolvedRefs",
            ],
            Self::Listener => &[
                "Accepted",
                "Conflicted",
                "OverlappingTLSConfig",
                "Programmed",
                "ResolvedRefs",
            ],
            Self::ListenerSet => &["Accepted", "Programmed"],
            Self::Parent => &["Accepted", "PartiallyInvalid", "ResolvedRefs"],
            Self::Ancestor => &["Accepted", "ResolvedRefs"],
        }
    }

    /// Returns true if an existing condition is of another controller.
    fn is_foreign(self, condition: &Value) -> bool {
        let kind = condition.get("type").and_then(Value::as_str);
        kind.is_some_and(|kind| !kind.starts_with("weft.dev/") && !self.own_types().contains(&kind))
    }
}

/// An entry of this controller.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) reference: Value,
    pub(super) controller: &'static str,
    pub(super) conditions: Vec<Condition>,
}

impl From<&ParentStatus> for Entry {
    fn from(of: &ParentStatus) -> Self {
        Self {
            reference: json!(of.parent_ref),
            controller: match of.controller {
                Controller::Mesh => CONTROLLER_NAME,
                Controller::Gateway => GATEWAY_CONTROLLER_NAME,
            },
            conditions: of.conditions.clone(),
        }
    }
}

impl From<&AncestorStatus> for Entry {
    fn from(of: &AncestorStatus) -> Self {
        Self {
            reference: json!(of.ancestor),
            controller: GATEWAY_CONTROLLER_NAME,
            conditions: of.conditions.clone(),
        }
    }
}

/// Returns the merged list, or `None` if `existing` is up to date. `now` is RFC 3339 in UTC,
/// `generation` that of the entries.
///
/// Entries of other controllers keep their content and order. An own entry is updated in place, new
/// ones are appended, and those of objects that are no longer referred to are removed.
pub(super) fn entries(
    list: List,
    existing: &[Value],
    own: &[Entry],
    generation: i64,
    now: &str,
) -> Option<Vec<Value>> {
    let mut wanted: Vec<Option<&Entry>> = own.iter().map(Some).collect();
    let mut merged = Vec::with_capacity(existing.len() + wanted.len());
    for there in existing {
        if !is_own(there) {
            merged.push(there.clone());
            continue;
        }
        let place = wanted.iter().position(|entry| {
            entry.is_some_and(|entry| {
                there.get(list.reference()) == Some(&entry.reference)
                    && there.get("controllerName").and_then(Value::as_str) == Some(entry.controller)
            })
        });
        if let Some(entry) = place.and_then(|place| wanted[place].take()) {
            merged.push(written(list, entry, generation, Some(there), now));
        }
    }
    for entry in wanted.into_iter().flatten() {
        merged.push(written(list, entry, generation, None, now));
    }
    (merged != existing).then_some(merged)
}

fn written(list: List, of: &Entry, generation: i64, before: Option<&Value>, now: &str) -> Value {
    let before = before.and_then(|entry| entry.get("conditions"));
    json!({
        list.reference(): of.reference,
        "controllerName": of.controller,
        "conditions": conditions(list.of(), &of.conditions, generation, before, now),
    })
}

/// The complete status of an object that only this controller writes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Whole {
    pub(super) of: ConditionOwner,
    pub(super) conditions: Vec<Condition>,
    /// Fields other than conditions and listeners.
    pub(super) fields: Map<String, Value>,
    pub(super) listeners: Option<Vec<ListenerStatus>>,
}

/// The maximum number of conditions in the Gateway API's definitions. Conditions of others are
/// dropped beyond it.
const MAX_CONDITIONS: usize = 8;

/// The field of an address.
const ROUTABILITY: &str = "routability";

/// Returns the merged status, or `None` if `existing` is up to date.
pub(super) fn whole(
    existing: Option<&Value>,
    own: &Whole,
    generation: i64,
    now: &str,
) -> Option<Value> {
    let field = |name: &str| existing.and_then(|status| status.get(name));
    let before = field("conditions");
    let conditions = conditions(own.of, &own.conditions, generation, before, now);
    let mut status = own.fields.clone();
    status.insert("conditions".to_owned(), conditions.into());
    if let Some(own) = &own.listeners {
        let before = field("listeners").and_then(Value::as_array);
        let listeners = own
            .iter()
            .map(|own| listener(own, before.map_or(&[], Vec::as_slice), generation, now));
        status.insert("listeners".to_owned(), listeners.collect());
    }
    let same = status
        .iter()
        .all(|(name, value)| field(name).map_or(is_empty(value), |there| is_current(there, value)));
    (!same).then(|| status.into())
}

/// Returns true if an existing field has the wanted value. Definitions older than v1.7.0 lack the
/// routability of addresses, so the API server drops it.
fn is_current(there: &Value, wanted: &Value) -> bool {
    if there == wanted {
        return true;
    }
    let (Value::Array(there), Value::Array(wanted)) = (there, wanted) else {
        return false;
    };
    there.len() == wanted.len()
        && there.iter().zip(wanted).all(|(there, wanted)| {
            let mut wanted = wanted.clone();
            if let (None, Some(wanted)) = (there.get(ROUTABILITY), wanted.as_object_mut()) {
                wanted.remove(ROUTABILITY);
            }
            *there == wanted
        })
}

/// Returns true if the API server omits the field.
fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn listener(own: &ListenerStatus, before: &[Value], generation: i64, now: &str) -> Value {
    let named = |there: &&Value| there.get("name").and_then(Value::as_str) == Some(&own.name);
    let before = before.iter().find(named);
    let before = before.and_then(|listener| listener.get("conditions"));
    let kinds = own.supported_kinds.iter();
    let kinds = kinds.map(|of| json!({"group": of.group, "kind": of.kind}));
    json!({
        "name": own.name,
        "supportedKinds": kinds.collect::<Vec<_>>(),
        "attachedRoutes": own.attached_routes,
        "conditions": conditions(ConditionOwner::Listener, &own.conditions, generation, before, now),
    })
}

/// Returns the merged conditions: those of this controller, then those of others from `before`. The
/// time of a transition is `now` only if the status differs from `before`.
pub(super) fn conditions(
    of: ConditionOwner,
    conditions: &[Condition],
    generation: i64,
    before: Option<&Value>,
    now: &str,
) -> Vec<Value> {
    let before = before
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let one = |condition: &Condition| {
        let status = if condition.status { "True" } else { "False" };
        let known = before.iter().find(|known| {
            known.get("type").and_then(Value::as_str) == Some(&condition.kind)
                && known.get("status").and_then(Value::as_str) == Some(status)
        });
        let since = known.and_then(|known| known.get("lastTransitionTime")?.as_str());
        json!({
            "type": condition.kind,
            "status": status,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or(now),
            "reason": condition.reason,
            "message": condition.message,
        })
    };
    let foreign = before.iter().filter(|there| of.is_foreign(there));
    let room = MAX_CONDITIONS.saturating_sub(conditions.len());
    let own = conditions.iter().map(one);
    own.chain(foreign.take(room).cloned()).collect()
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
