//! What an object's status is to be: our own entries and conditions as translation has them, all others as they were.
//!
//! Source: Gateway API v1.6.3, RouteStatus and PolicyStatus ("a controller must only update entries with its own
//! controllerName").

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
        "conditions": conditions(&of.conditions, generation, before, now),
    })
}

/// All of a status, of an object that is ours alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Whole {
    pub(super) conditions: Vec<Condition>,
    /// What has no conditions.
    pub(super) fields: Map<String, Value>,
    pub(super) listeners: Option<Vec<ListenerStatus>>,
}

/// The new status, or `None` when `existing` says it all already. Conditions whose type has another domain stay.
pub(super) fn whole(
    existing: Option<&Value>,
    own: &Whole,
    generation: i64,
    now: &str,
) -> Option<Value> {
    let field = |name: &str| existing.and_then(|status| status.get(name));
    let before = field("conditions");
    let mut conditions = conditions(&own.conditions, generation, before, now);
    let others = before.and_then(Value::as_array).into_iter().flatten();
    conditions.extend(others.filter(|other| is_foreign(other)).cloned());
    let mut status = own.fields.clone();
    status.insert("conditions".to_owned(), conditions.into());
    if let Some(own) = &own.listeners {
        let before = field("listeners").and_then(Value::as_array);
        let listeners = own
            .iter()
            .map(|own| listener(own, before.map_or(&[], Vec::as_slice), generation, now));
        status.insert("listeners".to_owned(), listeners.collect());
    }
    let same = status.iter().all(|(name, value)| {
        field(name) == Some(value) || (is_empty(value) && field(name).is_none())
    });
    (!same).then(|| status.into())
}

/// The API server leaves such fields out.
fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn is_foreign(condition: &Value) -> bool {
    let kind = condition.get("type").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.contains('/') && !kind.starts_with("weft.dev/"))
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
        "conditions": conditions(&own.conditions, generation, before, now),
    })
}

/// Conditions for the wire. The time of a transition is `now` only where the status differs from `before`.
pub(super) fn conditions(
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
    conditions.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_translate::objects::ParentRef;

    const THEN: &str = "2024-01-01T00:00:00Z";
    const NOW: &str = "2024-01-02T00:00:00Z";

    fn status(name: &str, accepted: bool) -> ParentStatus {
        ParentStatus {
            parent_ref: ParentRef {
                group: Some(String::new()),
                kind: Some("Service".into()),
                name: name.into(),
                ..ParentRef::default()
            },
            controller: Controller::Mesh,
            conditions: vec![Condition {
                kind: "Accepted".into(),
                status: accepted,
                reason: if accepted {
                    "Accepted"
                } else {
                    "NoMatchingParent"
                }
                .into(),
                message: "said".into(),
            }],
        }
    }

    fn foreign() -> Value {
        json!({"parentRef": {"name": "gw"}, "controllerName": "other.dev/c", "conditions": [], "extra": 1})
    }

    fn merged(
        existing: &[Value],
        own: &[ParentStatus],
        generation: i64,
        now: &str,
    ) -> Option<Vec<Value>> {
        let own: Vec<Entry> = own.iter().map(Entry::from).collect();
        entries(List::Parents, existing, &own, generation, now)
    }

    #[test]
    fn writes_every_field_of_a_new_entry() {
        let written = merged(&[], &[status("reviews", true)], 3, NOW);
        let expected = json!([{
            "parentRef": {"group": "", "kind": "Service", "name": "reviews"},
            "controllerName": "weft.dev/mesh-controller",
            "conditions": [{
                "type": "Accepted", "status": "True", "observedGeneration": 3, "lastTransitionTime": NOW,
                "reason": "Accepted", "message": "said",
            }],
        }]);
        assert_eq!(written.map(Value::from), Some(expected));
    }

    #[test]
    fn says_nothing_twice() {
        let written = merged(&[foreign()], &[status("a", true)], 3, THEN).unwrap_or_default();
        assert_eq!(merged(&written, &[status("a", true)], 3, NOW), None);
    }

    #[test]
    fn the_time_changes_with_the_status_alone() {
        let time = |parents: &Option<Vec<Value>>| {
            let parents = parents.as_ref()?;
            parents[0]
                .pointer("/conditions/0/lastTransitionTime")
                .cloned()
        };
        let first = merged(&[], &[status("a", true)], 1, THEN).unwrap_or_default();
        let newer = merged(&first, &[status("a", true)], 2, NOW);
        assert_eq!(time(&newer), Some(json!(THEN)));
        let turned = merged(&first, &[status("a", false)], 2, NOW);
        assert_eq!(time(&turned), Some(json!(NOW)));
    }

    #[test]
    fn foreign_entries_stay_as_they_are_and_stale_own_ones_go() {
        let old = merged(&[], &[status("a", true), status("b", true)], 1, THEN).unwrap_or_default();
        let existing = [old[0].clone(), foreign(), old[1].clone()];
        let written = merged(&existing, &[status("b", true), status("c", true)], 1, NOW);
        let written = written.unwrap_or_default();
        let names: Vec<_> = written
            .iter()
            .map(|entry| entry.pointer("/parentRef/name").and_then(Value::as_str))
            .collect();
        assert_eq!(names, [Some("gw"), Some("b"), Some("c")]);
        assert_eq!(written[0], foreign());
        assert_eq!(written[1], old[1]);
    }

    #[test]
    fn without_own_parents_only_own_entries_go() {
        let old = merged(&[foreign()], &[status("a", true)], 1, THEN).unwrap_or_default();
        assert_eq!(merged(&old, &[], 2, NOW), Some(vec![foreign()]));
        assert_eq!(merged(&[foreign()], &[], 2, NOW), None);
    }

    #[test]
    fn the_same_parent_twice_is_written_twice_and_then_stays() {
        let twice = [status("a", true), status("a", true)];
        let written = merged(&[], &twice, 1, THEN).unwrap_or_default();
        assert_eq!(written.len(), 2);
        assert_eq!(merged(&written, &twice, 1, NOW), None);
    }

    #[test]
    fn garbage_in_an_own_entry_is_replaced() {
        let broken = json!({"controllerName": CONTROLLER_NAME, "parentRef": 5, "conditions": "x"});
        let written = merged(&[broken], &[status("a", true)], 1, NOW).unwrap_or_default();
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].pointer("/parentRef/name"), Some(&json!("a")));
    }

    #[test]
    fn a_gateways_entry_and_a_meshs_of_one_parent_are_two() {
        let of = |controller| ParentStatus {
            controller,
            ..status("a", true)
        };
        let mesh = merged(&[], &[of(Controller::Mesh)], 1, THEN).unwrap_or_default();
        let both = [of(Controller::Mesh), of(Controller::Gateway)];
        let written = merged(&mesh, &both, 1, NOW).unwrap_or_default();
        assert_eq!(written[0], mesh[0]);
        assert_eq!(
            written[1]["controllerName"],
            json!("weft.dev/gateway-controller")
        );
        assert_eq!(merged(&written, &both, 1, NOW), None);
    }

    #[test]
    fn a_policys_entries_name_their_ancestor() {
        let own = [Entry::from(&status("gw", true))];
        let written = entries(List::Ancestors, &[], &own, 1, NOW).unwrap_or_default();
        assert_eq!(written[0].pointer("/ancestorRef/name"), Some(&json!("gw")));
    }

    fn gateway(accepted: bool, routes: u32) -> Whole {
        let conditions = status("", accepted).conditions;
        Whole {
            fields: Map::from_iter([("addresses".to_owned(), json!([]))]),
            listeners: Some(vec![ListenerStatus {
                name: "http".into(),
                supported_kinds: Vec::new(),
                attached_routes: routes,
                conditions: conditions.clone(),
            }]),
            conditions,
        }
    }

    #[test]
    fn a_status_of_our_own_is_written_where_it_differs_and_keeps_its_times() {
        let written = whole(None, &gateway(true, 0), 1, THEN).unwrap_or_default();
        assert_eq!(whole(Some(&written), &gateway(true, 0), 1, NOW), None);
        let mut pruned = written.clone();
        drop(
            pruned
                .as_object_mut()
                .map(|status| status.remove("addresses")),
        );
        assert_eq!(whole(Some(&pruned), &gateway(true, 0), 1, NOW), None);
        let more = whole(Some(&written), &gateway(true, 1), 2, NOW).unwrap_or_default();
        let at = |path: &str| more.pointer(path).cloned();
        assert_eq!(at("/listeners/0/attachedRoutes"), Some(json!(1)));
        let time = "/listeners/0/conditions/0/lastTransitionTime";
        assert_eq!(at(time), Some(json!(THEN)));
        assert_eq!(at("/conditions/0/observedGeneration"), Some(json!(2)));
        let turned = whole(Some(&written), &gateway(false, 0), 1, NOW).unwrap_or_default();
        assert_eq!(turned.pointer(time), Some(&json!(NOW)));
    }

    #[test]
    fn conditions_of_other_domains_stay_and_what_we_no_longer_say_goes() {
        let foreign = json!({"type": "other.dev/Ready", "status": "True"});
        let existing = json!({"conditions": [
            {"type": "Programmed", "status": "False"}, foreign,
            {"type": "weft.dev/Old", "status": "True"},
        ]});
        let written = whole(Some(&existing), &gateway(true, 0), 1, NOW).unwrap_or_default();
        let conditions = written["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert_eq!(conditions.len(), 2);
        assert_eq!(conditions[1], foreign);
    }
}
