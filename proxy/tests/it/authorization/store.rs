//! Policies on their way into force: refused, removed, changed under load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use weft_ir::{Protocol, Routing};
use weft_testkit::upstream::{Speaks, Upstream};

/// Applies an update; returns the keys of the refused resources.
fn apply(pod: &Pod, resources: Vec<proto::Resource>, removed: &[&str]) -> Vec<String> {
    let refused = pod.store.apply(proto::Update {
        nonce: 1,
        resources,
        removed: removed.iter().map(|key| (*key).to_owned()).collect(),
        withdrawn: None,
    });
    refused.into_iter().map(|of| of.key).collect()
}

/// Policies that a proxy of this version does not understand.
fn unreadable() -> proto::Resource {
    let mut resource = pod_policies(vec![policy("p", Allow, any())]);
    if let Some(proto::resource::Body::Authorization(of)) = &mut resource.body {
        let policies = &mut of.workload.as_mut().unwrap().policies;
        let condition = proto::AuthorizationCondition { kind: None };
        policies[0].rules[0].conditions.push(condition);
    }
    resource
}

/// Policies beyond the limit of a resource.
fn too_large() -> proto::Resource {
    let mut resource = pod_policies(Vec::new());
    resource.key = "authorization".to_owned();
    let name = "n".repeat(17 << 20);
    if let Some(proto::resource::Body::Authorization(of)) = &mut resource.body {
        let policy = proto::AuthorizationPolicy {
            name,
            action: proto::authorization_policy::Action::Allow.into(),
            ..proto::AuthorizationPolicy::default()
        };
        of.workload.as_mut().unwrap().policies.push(policy);
    }
    resource
}

#[tokio::test]
async fn refused_policies_deny_everything_if_none_are_in_force() {
    for refused in [unreadable(), too_large()] {
        let (pair, mut client) = Pair::for_version(Version::Http1).await;
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(
            apply(&pair.server, vec![refused.clone()], &[]),
            ["authorization"]
        );
        let seen = client.get("/").await;
        assert_eq!(seen.status, 403);
        assert_eq!(seen.body, "denied: the policies cannot be read\n");
        // Other updates change nothing.
        let none: Vec<String> = Vec::new();
        let destination = service(Protocol::Http1, Routing::Direct(vec![to("reviews", 1)]));
        assert_eq!(apply(&pair.server, vec![destination], &[]), none);
        assert_eq!(client.get("/").await.status, 403);
        enforce(&pair.server, vec![policy("p", Allow, any())]);
        assert_eq!(client.get("/").await.status, 200);
        // Those in force stay.
        assert_eq!(
            apply(&pair.server, vec![refused.clone()], &[]),
            ["authorization"]
        );
        assert_eq!(client.get("/").await.status, 200);
        enforce(&pair.server, deny_all());
        assert_eq!(
            apply(&pair.server, vec![refused.clone()], &[]),
            ["authorization"]
        );
        assert_eq!(client.get("/").await.status, 403);
        assert_eq!(apply(&pair.server, Vec::new(), &["authorization"]), none);
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(apply(&pair.server, vec![refused], &[]), ["authorization"]);
        assert_eq!(client.get("/").await.status, 403);
        assert_eq!(apply(&pair.server, Vec::new(), &["authorization"]), none);
        assert_eq!(client.get("/").await.status, 200);
    }
}

/// Both before and after each change everybody may call, so that no request may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_and_removal_under_load_fail_no_allowed_request() {
    let app = Upstream::start("v1", Speaks::Http2).await.unwrap();
    let pair = Arc::new(Proxies::before(app.address(), Protocol::Http2));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (front, stop) = (pair.front, stop.clone());
            tokio::spawn(async move {
                let version = BOTH[number % 2];
                let mut client = Client::connect(front, version).await;
                let mut requests = 0;
                while !stop.load(Relaxed) {
                    let seen = client.send(http::Request::post("/v1/items"), "body").await;
                    assert_eq!((seen.status, &seen.body[..]), (200, &b"body"[..]));
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let variants = [
        vec![policy("a", Allow, vec![from(&[account("frontend")])])],
        vec![policy("b", Allow, vec![to_requests(&[prefix("/v1")])])],
        Vec::new(),
        vec![
            policy("c", Deny, vec![from(&[account("other")])]),
            policy("d", Audit, any()),
        ],
    ];
    let mut changes = 0_usize;
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        enforce(&pair.server, variants[changes % variants.len()].clone());
        if changes.is_multiple_of(7) {
            apply(&pair.server, Vec::new(), &["authorization"]);
        }
        changes += 1;
        tokio::task::yield_now().await;
    }
    stop.store(true, Relaxed);
    for client in clients {
        let requests: usize = client.await.unwrap();
        assert!(requests > 10, "{requests} requests, {changes} changes");
    }
}
