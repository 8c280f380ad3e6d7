//! What proxies of Gateways are sent.

use super::*;

/// Ports 80 and 443, which refer to a and b.
fn gateway() -> Cluster {
    let gateway = (vec![(80, 1), (443, 2)], vec![port("a"), port("b")]);
    Cluster {
        gateway: Some(gateway),
        ..cluster()
    }
}

#[test]
fn gateway_proxy_gets_its_ports_with_the_sets_for_gateways() {
    let (cluster, mut session) = (gateway(), session(&[]));
    let update = session.next_update(&cluster).unwrap();
    let versions: Vec<_> = update.resources.iter().map(|one| one.version).collect();
    assert_eq!(versions, [1, 1100, 1200, 1, 1, 2]);
    let keys: Vec<_> = update.resources.iter().map(|one| &*one.key).collect();
    assert_eq!(keys, ["workload", A, B, "gateway", P80, P443]);
    assert_eq!(session.next_update(&cluster), None);
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn removed_port_is_removed_with_its_sets() {
    let (mut cluster, mut session) = (gateway(), session(&[]));
    said(session.next_update(&cluster));
    cluster.gateway = Some((vec![(80, 3)], vec![port("b")]));
    session.snapshot_changed();
    let (sent, removed) = said(session.next_update(&cluster));
    assert_eq!(sent, [P80]);
    assert_eq!(removed, [A, P443]);
}

#[test]
fn ports_held_from_an_earlier_stream_are_compared_like_the_rest() {
    let held = [(P80, 1), ("port/udp/53", 7), (A, 1100), ("gateway", 1)];
    let (cluster, mut session) = (gateway(), session(&held));
    let (sent, removed) = said(session.next_update(&cluster));
    assert_eq!(sent, [B, P443, "workload"]);
    assert_eq!(removed, ["port/udp/53"]);
}

#[test]
fn ports_wait_for_sets_that_do_not_fit_into_one_update() {
    let (mut cluster, mut session) = (gateway(), session(&[]));
    cluster.weight = FULL_UPDATE;
    assert_eq!(said(session.next_update(&cluster)).0, [A, "workload"]);
    assert_eq!(said(session.next_update(&cluster)).0, [B]);
    assert_eq!(
        said(session.next_update(&cluster)).0,
        ["gateway", P443, P80]
    );
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn unknown_gateway_keeps_its_ports_and_its_sets_are_updated() {
    let (mut cluster, mut session) = (gateway(), session(&[]));
    said(session.next_update(&cluster));
    cluster.gateway = None;
    cluster.sets.insert(port("a"), 101);
    session.snapshot_changed();
    let (sent, removed) = said(session.next_update(&cluster));
    assert_eq!((sent, removed), (vec![A.to_owned()], vec![]));
}

#[test]
fn authorization_of_a_gateway_is_sent_before_its_ports() {
    let mut cluster = gateway();
    cluster.authorization = 5;
    cluster.weight = FULL_UPDATE;
    let mut session = session(&[]);
    let first = said(session.next_update(&cluster)).0;
    assert_eq!(first, ["authorization", A, "workload"]);
}
