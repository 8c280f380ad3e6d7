//! Resources, acknowledgements and the end of a stream.

use super::*;

#[tokio::test]
async fn proxy_gets_its_workload_its_destinations_and_their_changes() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    let first = proxy.next().await.unwrap();
    assert_eq!(keys(&first), ["authorization", "workload"]);
    proxy.watch(REVIEWS).await;
    let second = proxy.next().await.unwrap();
    let (destination, endpoints) = ("destination/10.96.0.10:80", "endpoints/shop/reviews:80");
    assert_eq!(keys(&second), [destination, endpoints]);
    controller.publish.send_replace(Some(snapshot("10.1.0.3")));
    let third = proxy.next().await.unwrap();
    assert_eq!(keys(&third), [endpoints]);
    let (key, version, decoded) = weft_api::decode::resource(third.resources[0].clone()).unwrap();
    let weft_api::Resource::Endpoints(set) = decoded else {
        panic!("{decoded:?} is no endpoint set");
    };
    assert_eq!(set.endpoints[0].address, "10.1.0.3:8080".parse().unwrap());
    assert_eq!(controller.metrics.watched_addresses.get(), 1);

    // A new stream that holds all of it gets the difference alone.
    let held: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|update| update.resources.iter())
        .map(|resource| (&*resource.key, resource.version))
        .collect();
    drop(proxy);
    let mut proxy = Proxy::of(&controller, "web-0", &held).await;
    let update = proxy.next().await.unwrap();
    assert_eq!(
        (keys(&update), update.resources[0].version),
        (vec![endpoints], version)
    );
    proxy.ack(update.nonce, &[]).await;
    let in_force = || {
        controller
            .registry
            .holders(&key)
            .iter()
            .any(|(_, held)| *held == Held::InForce(version))
    };
    eventually("the ack is recorded", in_force).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_that_come_with_a_message_are_not_missed() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    proxy.watch(REVIEWS).await;
    let endpoints = "endpoints/shop/reviews:80";
    let mut nonce = loop {
        let update = proxy.next().await.unwrap();
        if keys(&update).contains(&endpoints) {
            break update.nonce;
        }
    };
    for round in 0..500_u32 {
        let next = snapshot(&format!("10.1.{}.{}", 1 + round / 250, round % 250));
        // The one meets the other somewhere between the socket and the session.
        let publishing = async {
            for _ in 0..round % 32 {
                tokio::task::yield_now().await;
            }
            controller.publish.send_replace(Some(next));
        };
        tokio::join!(proxy.ack(nonce, &[]), publishing);
        let update = proxy.next().await.unwrap();
        assert_eq!(keys(&update), [endpoints], "{round}");
        nonce = update.nonce;
    }
}

#[tokio::test]
async fn rejected_resource_is_recorded_and_counted() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    let update = proxy.next().await.unwrap();
    proxy.ack(update.nonce, &["workload"]).await;
    eventually("the nack is counted", || {
        controller.metrics.nacks.get() == 1
    })
    .await;
    let holders = controller.registry.holders(&ResourceKey::Workload);
    let version = update.resources[0].version;
    assert_eq!(holders[0].1, Held::Refused(version));
}

#[tokio::test]
async fn stopped_subscriber_delays_no_other() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut stopped = Proxy::of(&controller, "web-0", &[]).await;
    let mut reading = Proxy::of(&controller, "web-0", &[]).await;
    for proxy in [&mut stopped, &mut reading] {
        proxy.watch(REVIEWS).await;
        let first = proxy.next().await.unwrap();
        if keys(&first) == ["authorization", "workload"] {
            proxy.next().await.unwrap();
        }
    }
    for round in 0..20_u8 {
        let ip = format!("10.1.1.{round}");
        controller.publish.send_replace(Some(snapshot(&ip)));
        let update = reading.next().await.unwrap();
        assert_eq!(keys(&update), ["endpoints/shop/reviews:80"]);
        for nonce in 1..=update.nonce {
            reading.ack(nonce, &[]).await;
        }
    }
    // It wakes up, and after what was under way gets the latest state at once.
    let mut last = stopped.next().await.unwrap();
    let mut seen = 1;
    let latest = snapshot("10.1.1.19")
        .encoder
        .endpoints(&weft_ir::ServicePort::new("shop", "reviews", 80), "");
    let latest = latest.unwrap().version;
    while last.resources[0].version != latest {
        for nonce in 1..=last.nonce {
            stopped.ack(nonce, &[]).await;
        }
        last = stopped.next().await.unwrap();
        seen += 1;
    }
    assert!(seen <= session::MAX_UNACKED + 1, "{seen} updates");
}

#[tokio::test]
async fn stream_waits_for_a_pod_that_the_watch_does_not_show_yet() {
    let controller = controller(Some(WEB), None, Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    eventually("the stream is open", || {
        controller.metrics.streams.get() == 1
    })
    .await;
    controller.publish.send_replace(Some(snapshot("10.1.0.2")));
    assert_eq!(
        keys(&proxy.next().await.unwrap()),
        ["authorization", "workload"]
    );
}

#[tokio::test]
async fn invalid_messages_end_the_stream_with_the_reason() {
    let limits = Limits {
        watches: 1,
        pod: Duration::from_millis(50),
        ..Limits::default()
    };
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), limits).await;
    let code = async |mut proxy: Proxy| proxy.end().await.code();

    let other = Proxy::of(&controller, "reviews-0", &[]).await;
    assert_eq!(code(other).await, Code::PermissionDenied);
    let unknown = Proxy::of(&controller, "nobody-0", &[]).await;
    assert_eq!(code(unknown).await, Code::NotFound);
    let rude = Proxy::connect(&controller).await.unwrap();
    rude.watch(REVIEWS).await;
    assert_eq!(code(rude).await, Code::InvalidArgument);
    let garbage = Proxy::of(&controller, "web-0", &[]).await;
    garbage.watch("reviews").await;
    assert_eq!(code(garbage).await, Code::InvalidArgument);
    let greedy = Proxy::of(&controller, "web-0", &[]).await;
    greedy.watch(REVIEWS).await;
    greedy.watch("10.96.0.11:80").await;
    assert_eq!(code(greedy).await, Code::ResourceExhausted);
    let newer = Proxy::of(&controller, "web-0", &[]).await;
    newer
        .messages
        .send(ProxyMessage { kind: None })
        .await
        .unwrap();
    assert_eq!(code(newer).await, Code::Unimplemented);
    eventually("every stream has ended", || {
        controller.metrics.streams.get() == 0
    })
    .await;
    assert_eq!(controller.metrics.watched_addresses.get(), 0);
}

#[tokio::test]
async fn stream_needs_a_client_certificate() {
    let controller = controller(None, Some(snapshot("10.1.0.2")), Limits::default()).await;
    let refused = Proxy::connect(&controller).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn stopping_ends_streams_so_that_proxies_connect_again() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    proxy.next().await.unwrap();
    controller.stop.cancel();
    assert_eq!(proxy.end().await.code(), Code::Unavailable);
    controller.tasks.close();
    assert!(
        timeout(Duration::from_secs(5), controller.tasks.wait())
            .await
            .is_ok()
    );
}
