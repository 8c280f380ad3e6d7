//! The withdrawal of terminating pods.

use super::*;

/// The answer to `Withdraw`; everything before it is acknowledged.
async fn withdrawn(proxy: &mut Proxy) -> proto::Withdrawn {
    loop {
        let update = proxy.next().await.unwrap();
        if let Some(withdrawn) = update.withdrawn {
            assert_eq!((update.nonce, keys(&update)), (0, vec![]));
            return withdrawn;
        }
        proxy.ack(update.nonce, &[]).await;
    }
}

#[tokio::test]
async fn pod_is_withdrawn_once_every_proxy_has_acknowledged() {
    let controller = controller(Some(WEB), Some(leaving(false)), Limits::default()).await;
    let mut client = Proxy::of(&controller, "web-0", &[]).await;
    client.watch(REVIEWS).await;
    let mut all = client.next().await.unwrap();
    if keys(&all) == ["authorization", "workload"] {
        client.ack(all.nonce, &[]).await;
        all = client.next().await.unwrap();
    }
    client.ack(all.nonce, &[]).await;
    let mut ends = Proxy::of(&controller, "web-1", &[]).await;
    ends.say(Kind::Withdraw(proto::Withdraw {})).await;
    // The watch is behind the proxy.
    controller.publish.send_replace(Some(leaving(true)));
    let update = client.next().await.unwrap();
    assert_eq!(keys(&update), ["endpoints/shop/reviews:80"]);
    let answer = withdrawn(&mut ends);
    tokio::pin!(answer);
    let early = timeout(Duration::from_millis(100), answer.as_mut()).await;
    assert!(early.is_err(), "answered before the client acknowledged");
    client.ack(update.nonce, &[]).await;
    let expected = proto::Withdrawn {
        terminating: true,
        service_ports: 1,
        unacknowledged: 0,
    };
    assert_eq!(answer.await, expected);
}

#[tokio::test]
async fn withdrawal_does_not_wait_for_disconnected_proxies() {
    let controller = controller(Some(WEB), Some(leaving(false)), Limits::default()).await;
    let mut client = Proxy::of(&controller, "web-0", &[]).await;
    client.watch(REVIEWS).await;
    client.next().await.unwrap();
    let mut ends = Proxy::of(&controller, "web-1", &[]).await;
    ends.say(Kind::Withdraw(proto::Withdraw {})).await;
    controller.publish.send_replace(Some(leaving(true)));
    client.next().await.unwrap();
    drop(client);
    assert_eq!(withdrawn(&mut ends).await.unacknowledged, 0);
}

#[tokio::test]
async fn pod_that_is_not_deleted_is_not_withdrawn() {
    let controller = controller(Some(WEB), Some(leaving(false)), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-1", &[]).await;
    proxy.say(Kind::Withdraw(proto::Withdraw {})).await;
    // Asked again meanwhile: one answer.
    proxy.say(Kind::Withdraw(proto::Withdraw {})).await;
    assert_eq!(withdrawn(&mut proxy).await, proto::Withdrawn::default());
    let more = timeout(Duration::from_millis(100), proxy.next()).await;
    assert!(more.is_err(), "{more:?}");
}
