use std::sync::Arc;

use serde_json::json;
use weft_ir::ResourceKey;
use weft_translate::{Objects, translate};

use super::*;
use crate::encoder::Source;
use crate::replicas::Report;
use crate::replicas::tally::counts;
use crate::snapshot::test_settings;
use crate::subscribe::registry::StreamHandle;
use crate::subscribe::session::Acked;
use crate::watch::ObjectKey;

/// Three pods, two of which are targets of a policy, and a policy on nothing.
fn snapshot() -> Snapshot {
    let pod = |name: &str, app: &str| {
        let pod = json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {"containers": [{"name": "weft-proxy"}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    let policy = |name: &str, targets: serde_json::Value| {
        let policy = json!({
            "metadata": {"name": name, "namespace": "shop", "generation": 3},
            "spec": {"targetRefs": targets, "action": "ALLOW", "rules": [{}]},
        });
        Arc::new(serde_json::from_value(policy).unwrap())
    };
    let web = json!([{"kind": "Pod", "selector": {"matchLabels": {"app": "web"}}}]);
    let objects = Objects {
        pods: vec![
            pod("web-0", "web"),
            pod("web-1", "web"),
            pod("api-0", "api"),
        ],
        authorization_policies: vec![
            policy("web", web),
            policy("gone", json!([{"kind": "Service", "name": "gone"}])),
        ],
        ..Objects::default()
    };
    Snapshot::new(translate(&objects, &test_settings()))
}

fn stream(registry: &Registry, pod: &str, version: u64) -> StreamHandle {
    let pod = ObjectKey::new("shop", pod);
    registry.register(pod, &[(ResourceKey::Authorization, version)], 9)
}

fn said(snapshot: &Snapshot, registry: &Registry, others: &Others) -> (String, String) {
    let statuses = authorizations(snapshot, registry, others);
    // A policy that is not accepted is not counted.
    assert_eq!(&*statuses[0].id.name, "gone");
    assert_eq!(statuses[0].ancestors[0].conditions.len(), 1);
    let condition = statuses[1].ancestors[0].conditions[1].clone();
    (condition.reason, condition.message)
}

#[test]
fn policy_counts_the_proxies_that_enforce_it_and_names_those_that_reject() {
    let (snapshot, registry) = (snapshot(), Registry::default());
    let others = Others::default();
    let pair = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    let none = pair("NoProxies", "no connected proxy enforces the policy");
    assert_eq!(said(&snapshot, &registry, &others), none);
    let version = snapshot
        .encoder
        .authorization("shop", "web-0")
        .unwrap()
        .version;
    let _other = stream(&registry, "api-0", 1);
    assert_eq!(said(&snapshot, &registry, &others), none);
    let _first = stream(&registry, "web-0", version);
    let second = registry.register(ObjectKey::new("shop", "web-1"), &[], 9);
    let pending = pair("Pending", "1 of 2 proxies connected");
    assert_eq!(said(&snapshot, &registry, &others), pending);
    // As a proxy answers that does not know the key.
    second.record(Acked {
        refused: vec![(
            ResourceKey::Authorization,
            version,
            "unknown key".to_owned(),
        )],
        ..Acked::default()
    });
    let refused = "1 of 2 proxies connected; rejected by 1 (shop/web-1): the reasons are in the \
                   controller's log";
    assert_eq!(
        said(&snapshot, &registry, &others),
        pair("Refused", refused)
    );
    second.record(Acked {
        in_force: vec![(ResourceKey::Authorization, Some(version))],
        ..Acked::default()
    });
    let all = pair("Programmed", "2 of 2 proxies connected");
    assert_eq!(said(&snapshot, &registry, &others), all);
}

#[test]
fn proxies_of_other_replicas_are_counted() {
    let (snapshot, here, there) = (snapshot(), Registry::default(), Registry::default());
    let version = snapshot
        .encoder
        .authorization("shop", "web-0")
        .unwrap()
        .version;
    let _here = stream(&here, "web-0", version);
    let remote = stream(&there, "web-1", version);
    remote.record(Acked {
        refused: vec![(ResourceKey::Authorization, version, String::new())],
        ..Acked::default()
    });
    let report = Report::bounded(1, counts(&snapshot, &there));
    let text = serde_json::to_string(&report).unwrap();
    let others = Others([("c-1".to_owned(), serde_json::from_str(&text).unwrap())].into());
    let refused = "1 of 2 proxies connected; rejected by 1 (shop/web-1): the reasons are in the \
                   controller's log";
    let expected = ("Refused".to_owned(), refused.to_owned());
    assert_eq!(said(&snapshot, &here, &others), expected);
}
