#![allow(clippy::unwrap_used)]

use super::*;
use weft_translate::objects::ParentRef;
use weft_translate::{Controller, ParentStatus};

fn status(generation: i64) -> RouteStatus {
    let condition = Condition {
        kind: "Accepted".into(),
        status: true,
        reason: "Accepted".into(),
        message: String::new(),
    };
    let parent_ref = ParentRef {
        name: "reviews".into(),
        ..ParentRef::default()
    };
    RouteStatus {
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: "r".into(),
        generation,
        parents: vec![ParentStatus {
            parent_ref,
            controller: Controller::Mesh,
            conditions: vec![condition],
        }],
    }
}

fn seen(own: Vec<Value>) -> HashMap<ObjectKey, Arc<[Value]>> {
    HashMap::from([(ObjectKey::new("shop", "r"), own.into())])
}

fn route(generation: i64, parents: Vec<Value>) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop", "generation": generation, "resourceVersion": "7"},
        "spec": {}, "status": {"parents": parents},
    }))
    .unwrap()
}

#[test]
fn route_is_due_until_its_status_is_current() {
    let due = of_routes(&[status(2)], RouteKind::Http, &seen(vec![]));
    assert_eq!(due.len(), 1);
    let patch = patch(&route(2, vec![]), &due[0], "2024-01-01T00:00:00Z").unwrap();
    assert_eq!(
        patch.pointer("/metadata/resourceVersion"),
        Some(&json!("7"))
    );
    let written = patch
        .pointer("/status/parents")
        .unwrap()
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(
        of_routes(&[status(2)], RouteKind::Http, &seen(written.clone())),
        []
    );
    assert_eq!(super::patch(&route(2, written), &due[0], "later"), None);
}

#[test]
fn route_that_changed_since_translation_is_not_patched() {
    let due = of_routes(&[status(2)], RouteKind::Http, &seen(vec![]));
    assert_eq!(patch(&route(3, vec![]), &due[0], "now"), None);
}

#[test]
fn stale_entries_are_removed() {
    let own = json!({"controllerName": crate::names::CONTROLLER_NAME, "parentRef": {"name": "x"}});
    let due = of_routes(&[], RouteKind::Http, &seen(vec![own.clone()]));
    assert_eq!(due.len(), 1);
    let foreign = json!({"controllerName": "other.dev/c"});
    let patch = patch(&route(9, vec![own, foreign.clone()]), &due[0], "now").unwrap();
    assert_eq!(patch.pointer("/status/parents"), Some(&json!([foreign])));
}

#[test]
fn deleted_route_is_not_due() {
    assert_eq!(
        of_routes(&[status(1)], RouteKind::Http, &HashMap::new()),
        []
    );
    assert_eq!(of_routes(&[status(1)], RouteKind::Grpc, &seen(vec![])), []);
}

/// Of the mesh's controller; a policy of the cluster is named without a namespace.
#[test]
fn authorization_policy_is_due_until_its_status_is_current() {
    let status = |namespace: Option<&str>| AuthorizationStatus {
        id: weft_ir::PolicyId {
            namespace: namespace.map(Arc::from),
            name: "r".into(),
            kind: weft_ir::PolicyKind::Authorization,
        },
        generation: 2,
        without_keys: None,
        ancestors: vec![weft_translate::AncestorStatus {
            ancestor: ParentRef {
                group: Some(String::new()),
                kind: Some("Service".into()),
                name: "reviews".into(),
                ..ParentRef::default()
            },
            conditions: status(2).parents[0].conditions.clone(),
        }],
    };
    let of = |status: &AuthorizationStatus, existing: &Existing| {
        of_authorizations(Subject::AuthorizationPolicy, &[status], existing)
    };
    let own = status(Some("shop"));
    let due = of(&own, &seen(vec![]));
    let patch = patch(&route(2, vec![]), &due[0], "now").unwrap();
    let written = patch.pointer("/status/ancestors").unwrap();
    let controller = written.pointer("/0/controllerName");
    assert_eq!(controller, Some(&json!(crate::names::CONTROLLER_NAME)));
    assert_eq!(of(&own, &seen(written.as_array().unwrap().clone())), []);
    let cluster = HashMap::from([(ObjectKey::new("", "r"), Arc::default())]);
    assert_eq!(of(&status(None), &cluster).len(), 1);
    assert_eq!(of(&own, &cluster), [], "another object");
}
