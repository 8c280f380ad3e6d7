//! Acknowledgements, and the limits of what a proxy may send.

use super::*;

#[test]
fn silent_proxy_gets_a_few_updates_and_then_only_the_latest() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(2))).unwrap();
    let mut sent = 0;
    for version in 300..400 {
        cluster.sets.insert(port("b"), version);
        session.snapshot_changed();
        sent += usize::from(session.next_update(&cluster).is_some());
    }
    assert_eq!(sent, MAX_UNACKED);
    ack(&mut session, 1);
    let update = session.next_update(&cluster).unwrap();
    assert_eq!(update.resources[0].version, 399);
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn acks_tell_what_is_in_force_and_what_was_refused() {
    let (cluster, mut session) = (cluster(), session(&[("workload", 1)]));
    session.receive(Input::Watch(address(2))).unwrap();
    let nonce = session.next_update(&cluster).unwrap().nonce;
    let refused = vec![(B.to_owned(), "no".to_owned())];
    let acked = session
        .receive(Input::Ack { nonce, refused })
        .unwrap()
        .unwrap();
    assert_eq!(
        acked.in_force,
        [(ResourceKey::Destination(address(2)), Some(20))]
    );
    assert_eq!(
        acked.refused,
        [(ResourceKey::Endpoints(port("b")), 200, "no".to_owned())]
    );
    // The same content would be refused again.
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
    assert_eq!(ack(&mut session, nonce), Acked::default());
}

/// A session that has sent 5,000 destinations in one update.
fn sent_many() -> (Session, Update) {
    let mut session = Session::new(hello(&[]), 10_000).unwrap();
    for n in 0..5_000_u16 {
        let [high, low] = n.to_be_bytes();
        let address = SocketAddr::from(([10, 1, high, low], 80));
        session.receive(Input::Watch(address)).unwrap();
    }
    let update = session.next_update(&cluster()).unwrap();
    (session, update)
}

#[test]
fn ack_with_many_rejections_is_fast() {
    let (mut session, update) = sent_many();
    assert_eq!(update.resources.len(), 5_001);
    let nonce = update.nonce;
    let name = |n: usize| (format!("destination/10.2.0.1:{n}"), String::new());
    let refused: Vec<_> = (0..500_000).map(name).collect();
    let begun = std::time::Instant::now();
    let answer = session.receive(Input::Ack { nonce, refused });
    let (refused, sent) = (500_000, 5_001);
    assert_eq!(answer, Err(StreamError::TooManyRefusals { refused, sent }));
    // Looked for one by one they would take minutes; most of this is the test's own message, given
    // back.
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}

#[test]
fn every_resource_of_a_large_update_may_be_rejected() {
    let (mut session, update) = sent_many();
    let refused = update.resources.iter();
    let refused = refused.map(|one| (one.key.clone(), "no".to_owned()));
    let (nonce, refused) = (update.nonce, refused.collect());
    let acked = session.receive(Input::Ack { nonce, refused });
    assert_eq!(acked.unwrap().unwrap().refused.len(), 5_001);
}

#[test]
fn unknown_nonce_is_an_error() {
    let mut session = session(&[]);
    for nonce in [0, 1, u64::MAX] {
        let refused = Vec::new();
        let answer = session.receive(Input::Ack { nonce, refused });
        assert_eq!(answer, Err(StreamError::Nonce(nonce)));
    }
}

#[test]
fn watches_are_bounded_in_hello_and_later() {
    let mut session = Session::new(hello(&[(D1, 10)]), 2).unwrap();
    session.receive(Input::Watch(address(1))).unwrap();
    session.receive(Input::Watch(address(2))).unwrap();
    let third = session.receive(Input::Watch(address(3)));
    assert_eq!(third, Err(StreamError::TooManyWatches(2)));
    assert!(Session::new(hello(&[(D1, 10), (D2, 20)]), 1).is_err());
}
