//! What a route's `status.parents` is to be: our own entries as translation has them, all others as they were.
//!
//! Source: Gateway API v1.6.3, RouteStatus ("a controller must only update entries with its own controllerName").

use serde_json::{Value, json};
use weft_translate::{Condition, ParentStatus};

use crate::CONTROLLER_NAME;
use crate::watch::object::is_own;

/// What our own entries are to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    pub parents: &'a [ParentStatus],
    /// The generation of the route that they speak of.
    pub generation: i64,
}

/// The new `status.parents`, or `None` when `existing` says it all already. `now` is RFC 3339 in UTC.
///
/// Entries of others keep their content and order; an own one is changed in its place, new ones come last, and those
/// of parents that the route no longer has go.
pub(super) fn parents(existing: &[Value], own: Own<'_>, now: &str) -> Option<Vec<Value>> {
    let mut wanted: Vec<Option<&ParentStatus>> = own.parents.iter().map(Some).collect();
    let mut merged = Vec::with_capacity(existing.len() + wanted.len());
    for entry in existing {
        if !is_own(entry) {
            merged.push(entry.clone());
            continue;
        }
        let place = wanted.iter().position(|status| {
            status.is_some_and(|status| entry.get("parentRef") == Some(&parent_ref(status)))
        });
        if let Some(status) = place.and_then(|place| wanted[place].take()) {
            merged.push(parent(status, own.generation, Some(entry), now));
        }
    }
    for status in wanted.into_iter().flatten() {
        merged.push(parent(status, own.generation, None, now));
    }
    (merged != existing).then_some(merged)
}

fn parent_ref(status: &ParentStatus) -> Value {
    json!(status.parent_ref)
}

fn parent(status: &ParentStatus, generation: i64, before: Option<&Value>, now: &str) -> Value {
    let before = before.and_then(|entry| entry.get("conditions"));
    json!({
        "parentRef": parent_ref(status),
        "controllerName": CONTROLLER_NAME,
        "conditions": conditions(&status.conditions, generation, before, now),
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
            controller: weft_translate::Controller::Mesh,
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
        let own = Own {
            parents: own,
            generation,
        };
        parents(existing, own, now)
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
}
