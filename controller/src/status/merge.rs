//! What an object's status is to be: our own entries and conditions as translation has them, all others as they were.
//!
//! Source: Gateway API v1.7.0, RouteStatus and PolicyStatus ("a controller must only update entries with its own
//! controllerName"), and `GatewayStatus.conditions` and `ListenerStatus.conditions`: conditions whose type we are not
//! responsible for are neither removed nor changed.

use serde_json::{Map, Value, json};
use weft_translate::{AncestorStatus, Condition, Controller, ListenerStatus, ParentStatus};

use crate::watch::object::is_own;
use crate::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME};

/// The lists of a status that several controllers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Of routes.
    Parents,
    /// Of policies.
    Ancestors,
}

impl List {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Parents => "parents",
            Self::Ancestors => "ancestors",
        }
    }

    /// The field of an entry that says what it speaks of.
    fn reference(self) -> &'static str {
        match self {
            Self::Parents => "parentRef",
            Self::Ancestors => "ancestorRef",
        }
    }

    fn of(self) -> Of {
        match self {
            Self::Parents => Of::Parent,
            Self::Ancestors => Of::Ancestor,
        }
    }
}

/// What a list of conditions speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Of {
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

impl Of {
    /// The types without a domain that we are responsible for: one that is not said now goes. All others are kept, but
    /// those of our own domain.
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

    /// Whether a condition that is there is somebody else's.
    fn is_foreign(self, condition: &Value) -> bool {
        let kind = condition.get("type").and_then(Value::as_str);
        kind.is_some_and(|kind| !kind.starts_with("weft.dev/") && !self.own_types().contains(&kind))
    }
}

/// One of our own entries.
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

/// The new list, or `None` when `existing` says it all already. `now` is RFC 3339 in UTC, `generation` the one that the
/// entries speak of.
///
/// Entries of others keep their content and order; an own one is changed in its place, new ones come last, and those
/// of what the object no longer refers to go.
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

/// All of a status, of an object that is ours alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Whole {
    pub(super) of: Of,
    pub(super) conditions: Vec<Condition>,
    /// What has no conditions.
    pub(super) fields: Map<String, Value>,
    pub(super) listeners: Option<Vec<ListenerStatus>>,
}

/// What the Gateway API's definitions let a list of conditions have. Ours have to find room, whatever others write.
const MAX_CONDITIONS: usize = 8;

/// Of an address.
const ROUTABILITY: &str = "routability";

/// The new status, or `None` when `existing` says it all already.
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
        .all(|(name, value)| field(name).map_or(is_empty(value), |there| says(there, value)));
    (!same).then(|| status.into())
}

/// Whether what is there is what is wanted. A definition older than v1.7.0 knows no routability of addresses, and the API
/// server leaves it out.
fn says(there: &Value, wanted: &Value) -> bool {
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

/// The API server leaves such fields out.
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
        "conditions": conditions(Of::Listener, &own.conditions, generation, before, now),
    })
}

/// Conditions for the wire: our own, then those of others as they are in `before`. The time of a transition is `now` only
/// where the status differs from `before`.
pub(super) fn conditions(
    of: Of,
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
