//! Whose stream is taken, and when it has to end.

use super::*;

const DAY: time::Duration = time::Duration::DAY;

/// The pods web-0 and web-1 of one account.
fn two() -> Arc<Snapshot> {
    leaving(false)
}

fn quick() -> Limits {
    Limits {
        pod: Duration::from_millis(50),
        ..Limits::default()
    }
}

/// Returns the code with which the stream of a client at `address` that claims to be web-1 ends.
async fn refused(address: &str) -> Status {
    let controller = serve_as(Some(WEB), address, DAY, Some(two()), quick()).await;
    Proxy::of(&controller, "web-1", &[]).await.end().await
}

#[tokio::test]
async fn client_certificate_is_bound_to_the_pod_at_its_address() {
    for other in ["10.1.0.1", "10.1.0.3", "::1"] {
        let status = refused(other).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{other}");
        assert!(
            status
                .message()
                .contains("not an address of pod shop/web-1")
        );
    }
    let own = serve_as(Some(WEB), "::ffff:10.1.0.2", DAY, Some(two()), quick()).await;
    let mut proxy = Proxy::of(&own, "web-1", &[]).await;
    assert_eq!(
        keys(&proxy.next().await.unwrap()),
        ["authorization", "workload"]
    );
}

#[tokio::test]
async fn pod_without_an_address_is_unavailable() {
    let mut fresh = pod("web-1", "web", "");
    fresh["status"]["podIPs"] = json!([]);
    let snapshot = cluster(&[], vec![fresh]);
    let controller = serve_as(Some(WEB), "10.1.0.2", DAY, Some(snapshot), quick()).await;
    let mut proxy = Proxy::of(&controller, "web-1", &[]).await;
    assert_eq!(proxy.end().await.code(), Code::Unavailable);
    assert_eq!(controller.metrics.refused_streams.get(), 0, "no fault");
}

#[tokio::test]
async fn stream_ends_when_its_certificate_expires() {
    let left = time::Duration::milliseconds(300);
    let controller = serve_as(Some(WEB), "10.1.0.1", left, Some(two()), quick()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    proxy.next().await.unwrap();
    assert_eq!(proxy.end().await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn stream_ends_when_its_pod_is_deleted_or_replaced() {
    let mut again = pod("web-1", "web", "10.1.0.2");
    again["metadata"]["uid"] = "2".into();
    for next in [vec![], vec![again]] {
        let controller = serve_as(Some(WEB), "10.1.0.2", DAY, Some(two()), quick()).await;
        let mut proxy = Proxy::of(&controller, "web-1", &[]).await;
        proxy.next().await.unwrap();
        controller
            .publish
            .send_replace(Some(cluster(&["10.1.0.2"], next)));
        assert_eq!(proxy.end().await.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn stream_survives_a_moment_without_the_pod() {
    let limits = Limits {
        pod: Duration::from_millis(400),
        ..Limits::default()
    };
    let controller = serve_as(Some(WEB), "10.1.0.2", DAY, Some(two()), limits).await;
    let mut proxy = Proxy::of(&controller, "web-1", &[]).await;
    proxy.next().await.unwrap();
    controller
        .publish
        .send_replace(Some(cluster(&["10.1.0.2"], vec![])));
    tokio::time::sleep(Duration::from_millis(100)).await;
    controller.publish.send_replace(Some(two()));
    let ended = timeout(Duration::from_millis(600), proxy.end()).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn newest_streams_of_a_pod_are_kept() {
    let controller = serve_as(Some(WEB), "10.1.0.1", DAY, Some(two()), quick()).await;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
        proxy.next().await.unwrap();
        proxies.push(proxy);
    }
    assert_eq!(proxies[0].end().await.code(), Code::Aborted);
    for kept in &mut proxies[1..] {
        kept.watch(REVIEWS).await;
        kept.next().await.unwrap();
    }
}

#[tokio::test]
async fn streams_have_a_maximum_age() {
    let limits = Limits {
        age: Duration::from_millis(200),
        ..quick()
    };
    let controller = serve_as(Some(WEB), "10.1.0.1", DAY, Some(two()), limits).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    proxy.next().await.unwrap();
    let status = proxy.end().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("any replica"), "{status}");
    assert_eq!(controller.metrics.refused_streams.get(), 0, "no fault");
}
