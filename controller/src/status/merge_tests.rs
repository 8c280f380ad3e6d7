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
fn new_entry_has_every_field() {
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
fn current_status_is_not_written_again() {
    let written = merged(&[foreign()], &[status("a", true)], 3, THEN).unwrap_or_default();
    assert_eq!(merged(&written, &[status("a", true)], 3, NOW), None);
}

#[test]
fn transition_time_changes_with_the_status_alone() {
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
fn foreign_entries_stay_and_stale_own_entries_are_removed() {
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
fn without_own_parents_only_own_entries_are_removed() {
    let old = merged(&[foreign()], &[status("a", true)], 1, THEN).unwrap_or_default();
    assert_eq!(merged(&old, &[], 2, NOW), Some(vec![foreign()]));
    assert_eq!(merged(&[foreign()], &[], 2, NOW), None);
}

#[test]
fn duplicate_parent_has_two_stable_entries() {
    let twice = [status("a", true), status("a", true)];
    let written = merged(&[], &twice, 1, THEN).unwrap_or_default();
    assert_eq!(written.len(), 2);
    assert_eq!(merged(&written, &twice, 1, NOW), None);
}

#[test]
fn invalid_own_entry_is_replaced() {
    let broken = json!({"controllerName": CONTROLLER_NAME, "parentRef": 5, "conditions": "x"});
    let written = merged(&[broken], &[status("a", true)], 1, NOW).unwrap_or_default();
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].pointer("/parentRef/name"), Some(&json!("a")));
}

#[test]
fn gateway_and_mesh_have_separate_entries_for_one_parent() {
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
fn policy_entries_name_their_ancestor() {
    let own = [Entry::from(&status("gw", true))];
    let written = entries(List::Ancestors, &[], &own, 1, NOW).unwrap_or_default();
    assert_eq!(written[0].pointer("/ancestorRef/name"), Some(&json!("gw")));
}

fn gateway(accepted: bool, routes: u32) -> Whole {
    let conditions = status("", accepted).conditions;
    Whole {
        of: ConditionOwner::Gateway,
        fields: Map::from_iter([("addresses".to_owned(), json!([]))]),
        listeners: Some(vec![ListenerStatus {
            name: "http".into(),
            socket: None,
            supported_kinds: Vec::new(),
            attached_routes: routes,
            conditions: conditions.clone(),
        }]),
        conditions,
    }
}

#[test]
fn whole_status_is_written_if_it_differs_and_keeps_times() {
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

/// Statuses with a condition of somebody else wherever one can stand, and what we say of the same
/// objects.
fn seeded(of: ConditionOwner) -> (Value, Value) {
    let conditions = [
        json!({"type": "Accepted", "status": "False"}),
        json!({"type": "other.dev/Ready", "status": "True", "observedGeneration": 1}),
        json!({"type": "DNSReady", "status": "Unknown", "extra": true}),
        json!({"type": "weft.dev/Old", "status": "True"}),
    ];
    let existing = json!({"conditions": conditions, "listeners": [{"name": "http", "conditions": conditions}]});
    let own = Whole {
        of,
        ..gateway(true, 0)
    };
    let written = whole(Some(&existing), &own, 2, NOW).unwrap_or_default();
    assert_eq!(whole(Some(&written), &own, 2, "later"), None);
    (existing, written)
}

fn types(conditions: &Value) -> Vec<&str> {
    let all = conditions.as_array().into_iter().flatten();
    all.filter_map(|of| of["type"].as_str()).collect()
}

#[test]
fn foreign_conditions_of_whole_statuses_stay() {
    for of in [
        ConditionOwner::Class,
        ConditionOwner::Gateway,
        ConditionOwner::ListenerSet,
        ConditionOwner::Mesh,
    ] {
        let (existing, written) = seeded(of);
        for place in ["/conditions", "/listeners/0/conditions"] {
            let now = written.pointer(place).cloned().unwrap_or_default();
            assert_eq!(
                types(&now),
                ["Accepted", "other.dev/Ready", "DNSReady"],
                "{of:?} {place}"
            );
            for kept in [1, 2] {
                let before = existing.pointer(&format!("{place}/{kept}"));
                assert_eq!(now.get(kept), before, "{of:?} {place}");
            }
        }
    }
}

#[test]
fn foreign_conditions_of_entries_stay() {
    let own = [Entry::from(&status("a", true))];
    for list in [List::Parents, List::Ancestors] {
        let mut there = entries(list, &[], &own, 1, THEN).unwrap_or_default();
        let foreign = json!({"type": "DNSReady", "status": "True"});
        if let Some(conditions) = there[0]["conditions"].as_array_mut() {
            conditions.push(foreign.clone());
            conditions.push(json!({"type": "weft.dev/Programmed", "status": "True"}));
        }
        let written = entries(list, &there, &own, 2, NOW).unwrap_or_default();
        assert_eq!(types(&written[0]["conditions"]), ["Accepted", "DNSReady"]);
        assert_eq!(written[0]["conditions"][1], foreign);
        assert_eq!(entries(list, &written, &own, 2, "later"), None);
    }
}

#[test]
fn own_conditions_that_are_not_set_are_removed() {
    for (of, kind) in [
        (ConditionOwner::Gateway, "InsecureFrontendValidationMode"),
        (ConditionOwner::Gateway, "Programmed"),
        (ConditionOwner::ListenerSet, "Programmed"),
    ] {
        let existing = json!({"conditions": [{"type": kind, "status": "True"}]});
        let own = Whole {
            of,
            ..gateway(true, 0)
        };
        let written = whole(Some(&existing), &own, 1, NOW).unwrap_or_default();
        assert_eq!(types(&written["conditions"]), ["Accepted"], "{of:?} {kind}");
    }
    let overlapping = json!([{"type": "OverlappingTLSConfig", "status": "True"}]);
    assert!(conditions(ConditionOwner::Listener, &[], 1, Some(&overlapping), NOW).is_empty());
    let partially = json!([{"type": "PartiallyInvalid", "status": "True"}]);
    assert!(conditions(ConditionOwner::Parent, &[], 1, Some(&partially), NOW).is_empty());
}

#[test]
fn own_conditions_have_priority_within_the_maximum() {
    let others: Vec<Value> = (0..8)
        .map(|n| json!({"type": format!("other.dev/{n}"), "status": "True"}))
        .collect();
    let own = status("a", true).conditions;
    let written = conditions(ConditionOwner::Parent, &own, 1, Some(&others.into()), NOW);
    assert_eq!(written.len(), 8);
    assert_eq!(written[0]["type"], "Accepted");
}

#[test]
fn address_without_routability_in_the_definition_is_current() {
    let address = json!({"type": "IPAddress", "value": "192.0.2.1", "routability": ""});
    let own = Whole {
        fields: Map::from_iter([("addresses".to_owned(), json!([address]))]),
        ..gateway(true, 0)
    };
    let mut written = whole(None, &own, 1, NOW).unwrap_or_default();
    assert_eq!(whole(Some(&written), &own, 1, NOW), None);
    if let Some(address) = written["addresses"][0].as_object_mut() {
        address.remove("routability");
    }
    assert_eq!(whole(Some(&written), &own, 1, NOW), None);
    written["addresses"][0]["value"] = json!("192.0.2.2");
    assert!(whole(Some(&written), &own, 1, NOW).is_some());
}
