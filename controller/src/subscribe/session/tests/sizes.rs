//! Updates that are larger than one message.

use super::*;

#[test]
fn large_update_is_split_between_destinations_only() {
    let mut cluster = cluster();
    cluster.weight = FULL_UPDATE;
    cluster
        .destinations
        .insert(address(2), (20, vec![port("c")]));
    cluster.sets.insert(port("c"), 300);
    let mut session = session(&[("workload", 1)]);
    session.receive(Input::Watch(address(1))).unwrap();
    session.receive(Input::Watch(address(2))).unwrap();
    assert_eq!(said(session.next_update(&cluster)).0, [D1, A, B]);
    assert_eq!(
        said(session.next_update(&cluster)).0,
        [D2, "endpoints/shop/c:80"]
    );
    assert_eq!(session.next_update(&cluster), None);
}

/// What a destination needs comes before it, in as many updates as that takes.
#[test]
fn sets_of_one_destination_may_take_several_updates() {
    let mut cluster = cluster();
    cluster.weight = SPLIT_UPDATE;
    let mut session = session(&[("workload", 1)]);
    session.receive(Input::Watch(address(1))).unwrap();
    for sent in [vec![A], vec![B], vec![D1]] {
        let update = session.next_update(&cluster);
        assert!(update.as_ref().unwrap().encoded_len() < SPLIT_UPDATE + FULL_UPDATE);
        assert_eq!(said(update).0, sent);
    }
    assert_eq!(session.next_update(&cluster), None);
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn too_large_resource_is_withheld_alone() {
    let (mut cluster, mut session) = (cluster(), session(&[("workload", 1)]));
    session.receive(Input::Watch(address(2))).unwrap();
    session.next_update(&cluster).unwrap();
    cluster.weight = MAX_RESOURCE;
    cluster.sets.insert(port("b"), 201);
    cluster.destinations.get_mut(&address(2)).unwrap().0 = 21;
    session.snapshot_changed();
    // The set that is in force stays, and is not removed.
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![D2.to_owned()], vec![])
    );
    let withheld = session.withheld();
    assert_eq!(withheld.len(), 1);
    let (key, version, reason) = &withheld[0];
    assert_eq!((key, *version), (&ResourceKey::Endpoints(port("b")), 201));
    assert!(reason.contains("at most 12582912 are sent"), "{reason}");
    // Said once for each version.
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
    assert_eq!(session.withheld(), []);
    cluster.weight = 0;
    cluster.sets.insert(port("b"), 202);
    session.snapshot_changed();
    assert_eq!(said(session.next_update(&cluster)).0, [B]);
}
