#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use tokio::sync::watch;
use weft_translate::{Objects, translate};

use super::*;
use crate::snapshot::{Snapshot, test_settings};

/// The pod shop/bob-0.
pub(crate) fn pod(uid: &str, ips: &[&str]) -> Value {
    let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"name": "bob-0", "namespace": "shop", "uid": uid},
        "spec": {
            "serviceAccountName": "bob", "nodeName": "a",
            "containers": [{"name": "app"}], "initContainers": [{"name": "weft-proxy"}],
        },
        "status": {"phase": "Running", "podIP": ips.first().map(|ip| ip["ip"].clone()), "podIPs": ips},
    })
}

pub(crate) fn snapshot(pods: Vec<Value>) -> Option<Arc<Snapshot>> {
    let pods = pods.into_iter().map(serde_json::from_value);
    let objects = Objects {
        pods: pods.map(|pod| Arc::new(pod.unwrap())).collect(),
        ..Objects::default()
    };
    Some(Arc::new(Snapshot::new(translate(
        &objects,
        &test_settings(),
    ))))
}

pub(crate) fn check(snapshots: &watch::Sender<Option<Arc<Snapshot>>>) -> PodCheck {
    PodCheck {
        snapshots: snapshots.subscribe(),
        address: true,
        max_wait: Duration::from_secs(5),
    }
}

fn claim(address: &str) -> Claim<'static> {
    Claim {
        namespace: "shop",
        pod: "bob-0",
        uid: Some("1"),
        node: Some("a"),
        account: None,
        address: address.parse().unwrap(),
    }
}

async fn confirm(pods: Vec<Value>, claim: Claim<'_>) -> Result<Arc<str>, PodMismatch> {
    let (sender, _receiver) = watch::channel(snapshot(pods));
    check(&sender).confirm(&claim).await
}

#[tokio::test(start_paused = true)]
async fn pod_is_confirmed_at_its_own_addresses_only() {
    let both = || vec![pod("1", &["10.1.0.1", "fd00::1"])];
    for own in ["10.1.0.1", "::ffff:10.1.0.1", "fd00::1"] {
        assert_eq!(confirm(both(), claim(own)).await, Ok("1".into()), "{own}");
    }
    let mismatch = confirm(both(), claim("10.1.0.2")).await.unwrap_err();
    assert_eq!(mismatch.reason(), "other_address");
    assert_eq!(mismatch.code(), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_other_pods_and_nodes_are_rejected() {
    let other = |uid, node| Claim {
        uid: Some(uid),
        node: Some(node),
        ..claim("10.1.0.1")
    };
    let mismatch = async |claim| {
        let pods = vec![pod("1", &["10.1.0.1"])];
        confirm(pods, claim).await.unwrap_err().reason()
    };
    assert_eq!(mismatch(other("2", "a")).await, "other_pod");
    assert_eq!(mismatch(other("1", "b")).await, "other_node");
    // Kubernetes before 1.30 does not name the node.
    let silent = Claim {
        uid: None,
        node: None,
        ..claim("10.1.0.1")
    };
    assert!(confirm(vec![pod("1", &["10.1.0.1"])], silent).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn deleted_terminated_and_host_network_pods_are_rejected() {
    let mut ended = pod("1", &["10.1.0.1"]);
    ended["status"]["phase"] = "Failed".into();
    for pods in [vec![], vec![ended]] {
        let mismatch = confirm(pods, claim("10.1.0.1")).await.unwrap_err();
        assert_eq!(mismatch, PodMismatch::Unknown("shop/bob-0".to_owned()));
    }
    let mut on_host = pod("1", &["10.1.0.1"]);
    on_host["spec"]["hostNetwork"] = true.into();
    let mismatch = confirm(vec![on_host], claim("10.1.0.1")).await.unwrap_err();
    assert_eq!(mismatch.reason(), "host_network");
}

#[tokio::test(start_paused = true)]
async fn missing_pod_address_is_awaited_and_then_unavailable() {
    let (sender, _receiver) = watch::channel(snapshot(vec![pod("1", &[])]));
    let (check, claim) = (check(&sender), claim("10.1.0.1"));
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sender.send_replace(snapshot(vec![pod("1", &["10.1.0.1"])]));
        tokio::time::Instant::now()
    };
    let confirming = async { (check.confirm(&claim).await, tokio::time::Instant::now()) };
    let ((confirmed, at), seen) = tokio::join!(confirming, late);
    assert_eq!(confirmed, Ok("1".into()));
    assert_eq!(at, seen, "as soon as it is seen");

    sender.send_replace(snapshot(vec![pod("1", &[])]));
    let mismatch = check.confirm(&claim).await.unwrap_err();
    assert_eq!(mismatch, PodMismatch::NoAddress("shop/bob-0".to_owned()));
    assert_eq!(mismatch.code(), Code::Unavailable, "the proxy tries again");
}

#[tokio::test(start_paused = true)]
async fn addresses_are_not_compared_if_disabled() {
    let (sender, _receiver) = watch::channel(snapshot(vec![pod("1", &["10.1.0.1"])]));
    let check = PodCheck {
        address: false,
        ..check(&sender)
    };
    assert!(check.confirm(&claim("192.168.0.9")).await.is_ok());
    let earlier = Claim {
        uid: Some("0"),
        ..claim("192.168.0.9")
    };
    assert!(check.confirm(&earlier).await.is_err());
}
