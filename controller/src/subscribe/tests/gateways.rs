//! Streams of the proxies of Gateways.

use weft_ir::Transport;
use weft_translate::Condition;

use super::*;
use crate::replicas::Others;

const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front-weft";
const PORT_80: &str = "port/tcp/80";
const PORT_443: &str = "port/tcp/443";
const SET: &str = "endpoints/shop/reviews:80";

/// A pod with the label of the Gateway front.
fn gateway_pod(name: &str, account: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": {
                "gateway.networking.k8s.io/gateway-name": "front",
                "gateway.networking.k8s.io/gateway-class-name": "weft",
            },
        },
        "spec": {"serviceAccountName": account, "containers": [{"name": "weft-proxy"}]},
        "status": {"phase": "Running", "podIP": "10.1.0.9", "podIPs": [{"ip": "10.1.0.9"}]},
    })
}

/// The Gateway front of the class weft, with listeners of protocol HTTP on these ports.
fn gateway(ports: &[u16]) -> Value {
    let listener =
        |port: &u16| json!({"name": format!("p{port}"), "port": port, "protocol": "HTTP"});
    json!({
        "metadata": {"name": "front", "namespace": "shop", "uid": "u-1", "generation": 1},
        "spec": {
            "gatewayClassName": "weft",
            "listeners": ports.iter().map(listener).collect::<Vec<_>>(),
        },
    })
}

/// The pods front-0, which is a proxy of front, and other-0, which has its label alone; a route on
/// port 80 to reviews.
fn cluster(ports: &[u16], endpoint: &str) -> Arc<Snapshot> {
    cluster_with(ports, endpoint, &[])
}

/// Beside its route, routes on port 80, each for a path.
fn cluster_with(ports: &[u16], endpoint: &str, paths: &[(&str, &str)]) -> Arc<Snapshot> {
    let class = json!({
        "metadata": {"name": "weft"},
        "spec": {"controllerName": crate::names::GATEWAY_CONTROLLER_NAME},
    });
    let route = json!({
        "metadata": {"name": "r", "namespace": "shop", "generation": 1},
        "spec": {
            "parentRefs": [{"name": "front", "sectionName": "p80"}],
            "rules": [{"backendRefs": [{"name": "reviews", "port": 80}]}],
        },
    });
    let more = paths.iter().map(|(name, path)| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "generation": 1},
            "spec": {
                "parentRefs": [{"name": "front", "sectionName": "p80"}],
                "rules": [{"matches": [{"path": {"type": "Exact", "value": path}}]}],
            },
        })
    });
    let pods = vec![
        gateway_pod("front-0", "front-weft"),
        gateway_pod("other-0", "web"),
        pod("reviews-0", "reviews", endpoint),
    ];
    let objects = Objects {
        gateway_classes: read(vec![class]),
        gateways: read(vec![gateway(ports)]),
        http_routes: read(std::iter::once(route).chain(more).collect()),
        ..objects(&[endpoint], pods)
    };
    Arc::new(Snapshot::new(translate(&objects, &test_settings())))
}

#[tokio::test]
async fn gateway_proxy_gets_its_ports_and_their_changes() {
    let first = cluster(&[80, 443], "10.1.0.2");
    let controller = controller(Some(FRONT), Some(first), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "front-0", &[]).await;
    let update = proxy.next().await.unwrap();
    assert_eq!(
        keys(&update),
        [
            "authorization",
            SET,
            "gateway",
            PORT_443,
            PORT_80,
            "workload"
        ]
    );
    let place = |key: &str| update.resources.iter().position(|one| one.key == key);
    assert!(place(SET) < place(PORT_80), "endpoints before ports");

    let second = cluster(&[80], "10.1.0.3");
    controller.publish.send_replace(Some(second));
    let update = proxy.next().await.unwrap();
    assert_eq!(keys(&update), [SET]);
    assert_eq!(update.removed, [PORT_443]);
    let third = cluster(&[443], "10.1.0.3");
    controller.publish.send_replace(Some(third));
    let update = proxy.next().await.unwrap();
    assert_eq!(keys(&update), [PORT_443]);
    let mut removed = update.removed;
    removed.sort_unstable();
    assert_eq!(removed, [SET, PORT_80]);
}

#[tokio::test]
async fn pod_with_only_the_gateway_label_gets_no_gateway_resources() {
    let snapshot = cluster(&[80], "10.1.0.2");
    assert!(snapshot.encoder.gateway("shop", "front-0").is_some());
    assert!(snapshot.encoder.gateway("shop", "other-0").is_none());
    let limits = Limits {
        pod: Duration::from_millis(10),
        ..Limits::default()
    };
    let controller = controller(Some(FRONT), Some(snapshot), limits).await;
    let mut proxy = Proxy::of(&controller, "other-0", &[]).await;
    assert!(matches!(
        proxy.end().await.code(),
        Code::PermissionDenied | Code::NotFound
    ));
}

#[tokio::test]
async fn routes_of_a_port_have_the_state_of_its_proxies() {
    let snapshot = cluster(&[80], "10.1.0.2");
    let controller = controller(Some(FRONT), Some(snapshot.clone()), Limits::default()).await;
    let said = || {
        let status =
            crate::status::with_proxies(&snapshot, &controller.registry, &Others::default())
                .remove(0);
        let conditions = status.parents.into_iter().flat_map(|one| one.conditions);
        let of = |one: &Condition| one.kind == "weft.dev/Programmed";
        let condition = conditions.into_iter().find(of).unwrap();
        (condition.status, condition.reason)
    };
    assert_eq!(said(), (true, "NoProxies".into()));
    let mut proxy = Proxy::of(&controller, "front-0", &[]).await;
    let update = proxy.next().await.unwrap();
    assert_eq!(said(), (false, "Pending".into()));
    proxy.ack(update.nonce, &[]).await;
    let key = ResourceKey::Port(Transport::Tcp, 80);
    let in_force = || !controller.registry.holders(&key).is_empty();
    eventually("the ack is recorded", in_force).await;
    assert_eq!(said(), (true, "Programmed".into()));
}

#[tokio::test]
async fn other_routes_of_a_changed_port_stay_programmed() {
    let first = cluster_with(&[80], "10.1.0.2", &[("s", "/a"), ("t", "/t")]);
    let controller = controller(Some(FRONT), Some(first.clone()), Limits::default()).await;
    let said = |snapshot: &Snapshot| {
        let statuses =
            crate::status::with_proxies(snapshot, &controller.registry, &Others::default());
        let of = |status: weft_translate::RouteStatus| {
            let mut all = status.parents.into_iter().flat_map(|one| one.conditions);
            let condition = all.find(|one| one.kind == "weft.dev/Programmed").unwrap();
            (status.name, condition.reason)
        };
        statuses.into_iter().map(of).collect::<Vec<_>>()
    };
    let reasons = |reasons: [&str; 3]| {
        let names = ["r", "s", "t"].map(str::to_owned);
        let all = names.into_iter().zip(reasons.map(str::to_owned));
        all.collect::<Vec<_>>()
    };
    let mut proxy = Proxy::of(&controller, "front-0", &[]).await;
    let update = proxy.next().await.unwrap();
    assert_eq!(said(&first), reasons(["Pending"; 3]));
    proxy.ack(update.nonce, &[]).await;
    let all_in_force = || said(&first) == reasons(["Programmed"; 3]);
    eventually("the ack is recorded", all_in_force).await;

    // Twice, before the proxy answers: what is in force with it is two versions old by then.
    for path in ["/b", "/c"] {
        let next = cluster_with(&[80], "10.1.0.2", &[("s", path), ("t", "/t")]);
        controller.publish.send_replace(Some(next.clone()));
        let update = proxy.next().await.unwrap();
        assert_eq!(keys(&update), [PORT_80]);
        assert_eq!(
            said(&next),
            reasons(["Programmed", "Pending", "Programmed"])
        );
        if path == "/c" {
            proxy.ack(update.nonce, &[]).await;
            let in_force = || said(&next) == reasons(["Programmed"; 3]);
            eventually("the ack is recorded", in_force).await;
        }
    }
    let gone = cluster_with(&[80], "10.1.0.2", &[("s", "/c")]);
    controller.publish.send_replace(Some(gone.clone()));
    proxy.next().await.unwrap();
    let two = reasons(["Programmed"; 3])[..2].to_vec();
    assert_eq!(said(&gone), two, "a route less is nothing to the others");
}

#[tokio::test]
async fn listener_is_programmed_when_a_proxy_has_acknowledged_its_port() {
    let first = cluster(&[80], "10.1.0.2");
    let controller = controller(Some(FRONT), Some(first.clone()), Limits::default()).await;
    let said = |snapshot: &Snapshot, before: Option<&Value>| {
        let said = crate::status::programmed(snapshot, &controller.registry, before, false);
        said.into_iter().map(|(is, _)| is).collect::<Vec<_>>()
    };
    assert_eq!(said(&first, None), [false], "no proxy is there");
    let mut proxy = Proxy::of(&controller, "front-0", &[]).await;
    let update = proxy.next().await.unwrap();
    assert_eq!(said(&first, None), [false], "it has not answered");
    proxy.ack(update.nonce, &[]).await;
    eventually("the ack is recorded", || said(&first, None) == [true]).await;

    // A listener's port changes: what the proxy has is another.
    let second = cluster(&[81], "10.1.0.2");
    assert_eq!(said(&second, None), [false]);
    controller.publish.send_replace(Some(second.clone()));
    let update = proxy.next().await.unwrap();
    assert_eq!(said(&second, None), [false]);
    proxy.ack(update.nonce, &[]).await;
    eventually("the ack is recorded", || said(&second, None) == [true]).await;

    // Without connected proxies the condition of this generation stays, and a change is not in
    // force.
    drop(proxy);
    let third = cluster(&[82], "10.1.0.2");
    let alone = || controller.registry.streams() == 0;
    eventually("the stream ends", alone).await;
    let status = |generation: i64, name: &str| {
        let programmed =
            json!({"type": "Programmed", "status": "True", "observedGeneration": generation});
        json!({"listeners": [{"name": name, "conditions": [programmed]}]})
    };
    assert_eq!(said(&third, None), [false]);
    assert_eq!(said(&third, Some(&status(1, "p82"))), [true]);
    assert_eq!(said(&third, Some(&status(0, "p82"))), [false]);
    assert_eq!(said(&third, Some(&status(1, "p81"))), [false]);
    let elsewhere = crate::status::programmed(&third, &controller.registry, None, true);
    assert!(elsewhere[0].0, "another replica may have proxies");
}

#[tokio::test]
async fn port_that_proxies_reject_is_not_programmed() {
    let snapshot = cluster(&[80], "10.1.0.2");
    let controller = controller(Some(FRONT), Some(snapshot.clone()), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "front-0", &[]).await;
    let update = proxy.next().await.unwrap();
    proxy.ack(update.nonce, &[PORT_80]).await;
    let said = || crate::status::programmed(&snapshot, &controller.registry, None, false).remove(0);
    eventually("the refusal is recorded", || said().1.contains("rejected")).await;
    assert!(!said().0);
}
