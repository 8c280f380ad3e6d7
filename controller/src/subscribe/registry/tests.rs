//! Tests of the registry.

use super::*;

#[test]
fn tells_who_has_what_in_force_until_the_stream_ends() {
    let registry = Registry::default();
    let pod = ObjectKey::new("shop", "web-0");
    let stream = registry.register(pod.clone(), &[(ResourceKey::Workload, 1)], 4);
    let holders = || registry.holders(&ResourceKey::Workload);
    assert_eq!(holders(), [(pod.clone(), Held::InForce(1))]);
    stream.record(Acked {
        in_force: vec![],
        refused: vec![(ResourceKey::Workload, 2, "no".into())],
    });
    assert_eq!(holders(), [(pod.clone(), Held::Refused(2))]);
    stream.record(Acked {
        in_force: vec![(ResourceKey::Workload, None)],
        refused: vec![],
    });
    assert_eq!(holders(), []);
    drop(stream);
    assert_eq!(registry.streams(), 0);
}

#[test]
fn counts_who_trusts_and_who_has_renewed() {
    let registry = Registry::default();
    let pods = ["web-0", "web-1"].map(|name| ObjectKey::new("shop", name));
    let enter = |pod: &ObjectKey| registry.register(pod.clone(), &[], 4);
    let [first, second] = [&pods[0], &pods[1]].map(enter);
    // A stream that is not yet known to be dead.
    let dead = enter(&pods[1]);
    let acks = |stream: &StreamHandle, version| {
        stream.record(Acked {
            in_force: vec![(ResourceKey::Roots, Some(version))],
            refused: vec![],
        });
    };
    acks(&first, 1);
    acks(&first, 2);
    acks(&second, 2);
    let root: RootFingerprint = "7".parse().unwrap();
    second.certificate(root);
    let found = registry.root_progress(2, root);
    assert_eq!((found.connected, found.trusting, found.renewed), (2, 1, 0));
    assert_eq!(found.untrusting, pods[1..]);
    assert_eq!(found.unrenewed, pods);
    drop(dead);
    let found = registry.root_progress(2, root);
    assert_eq!((found.connected, found.trusting, found.renewed), (2, 2, 1));
    assert_eq!(
        registry.root_progress(3, root).trusting,
        0,
        "another version"
    );
}

#[test]
fn newest_streams_of_a_pod_replace_the_oldest() {
    let registry = Registry::default();
    let enter = |pod: &str| registry.register(ObjectKey::new("shop", pod), &[], 2);
    let is_replaced = |stream: &StreamHandle| stream.replaced.is_cancelled();
    let (other, first, second) = (enter("web-1"), enter("web-0"), enter("web-0"));
    assert!(!is_replaced(&first));
    let third = enter("web-0");
    assert!(is_replaced(&first) && !is_replaced(&second) && !is_replaced(&third));
    registry.shed(2);
    let is_shed = |stream: &StreamHandle| stream.shed.is_cancelled();
    assert!(is_shed(&other) && is_shed(&first) && !is_shed(&second));
    drop(first);
    drop(second);
    let fourth = enter("web-0");
    assert!(!is_replaced(&third) && !is_replaced(&fourth) && !is_replaced(&other));
}

/// Statuses count who enforces the policies.
#[test]
fn answer_about_policies_is_a_change() {
    let registry = Registry::default();
    let pod = ObjectKey::new("shop", "web-0");
    let stream = registry.register(pod.clone(), &[], 4);
    let mut changes = registry.destination_changes();
    changes.mark_unchanged();
    let states = || registry.states(&ResourceKey::Authorization);
    assert_eq!(states(), [(pod.clone(), None)]);
    stream.record(Acked {
        in_force: vec![(ResourceKey::Authorization, Some(7))],
        refused: vec![],
    });
    assert!(changes.has_changed().unwrap());
    assert_eq!(states(), [(pod, Some(Held::InForce(7)))]);
}
