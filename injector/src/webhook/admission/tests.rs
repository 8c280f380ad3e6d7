//! Requests to `/mutate` through the whole router, against a Kubernetes that only knows two
//! namespaces.

use axum::body::{Body, to_bytes};
use axum::http;
use kube::Client;
use kube::client::Body as KubeBody;
use tower::ServiceExt as _;

use super::*;

pub(in super::super) fn webhook() -> Arc<Webhook> {
    let kubernetes = tower::service_fn(|request: http::Request<KubeBody>| async move {
        let (code, body) = match request.uri().path() {
            "/api/v1/namespaces/shop" => {
                (200, object("shop", json!({ "weft.dev/inject": "enabled" })))
            }
            "/api/v1/namespaces/plain" => (200, object("plain", json!({}))),
            _ => (
                404,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                        "reason": "NotFound", "message": "no such namespace" }),
            ),
        };
        http::Response::builder()
            .status(code)
            .body(KubeBody::from(body.to_string().into_bytes()))
    });
    let (namespaces, _) = Namespaces::new(Client::new(kubernetes, "default"));
    Arc::new(Webhook {
        settings: crate::settings::tests::settings(),
        namespaces,
        metrics: Arc::new(Metrics::default()),
    })
}

fn object(name: &str, labels: Value) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "name": name, "labels": labels } })
}

fn review(namespace: &str, object: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "7f0b2891-916f-4ed6-b7cd-27bff1815a8c",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": namespace,
            "operation": "CREATE",
            "dryRun": true,
            "object": object,
        },
    })
}

fn pod() -> Value {
    json!({ "metadata": { "generateName": "web-" }, "spec": { "containers": [{ "name": "web" }] } })
}

async fn post(webhook: &Arc<Webhook>, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
    let request = http::Request::post("/mutate").body(body.into()).unwrap();
    let response = router(webhook.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    (
        status,
        to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap()
            .to_vec(),
    )
}

async fn answer(webhook: &Arc<Webhook>, review: Value) -> Value {
    let (status, body) = post(webhook, review.to_string()).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let mut answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    answer["response"].take()
}

fn counted(webhook: &Webhook, answer: Answer) -> u64 {
    webhook.metrics.requests.get_or_create(&answer.into()).get()
}

#[tokio::test]
async fn pod_of_a_labelled_namespace_is_injected() {
    let webhook = webhook();
    let answer = answer(&webhook, review("shop", pod())).await;
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["uid"], "7f0b2891-916f-4ed6-b7cd-27bff1815a8c");
    assert_eq!(answer["patchType"], "JSONPatch");
    let text = base64::engine::general_purpose::STANDARD
        .decode(answer["patch"].as_str().unwrap())
        .unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&text).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(
        patched.pointer("/spec/initContainers/1/name"),
        Some(&json!("weft-proxy"))
    );
    assert_eq!(counted(&webhook, Answer::Injected), 1);
}

#[tokio::test]
async fn only_pods_that_opt_in_are_injected_in_other_namespaces() {
    let webhook = webhook();
    let mut opted_in = pod();
    opted_in["metadata"]["labels"] = json!({ INJECT: "enabled" });
    assert!(answer(&webhook, review("plain", opted_in)).await["patch"].is_string());
    let left_alone = answer(&webhook, review("plain", pod())).await;
    assert_eq!(left_alone["allowed"], true);
    assert!(left_alone.get("patch").is_none());
    assert_eq!(counted(&webhook, Answer::Skipped), 1);
}

#[tokio::test]
async fn denial_has_a_reason() {
    let webhook = webhook();
    let mut bad = pod();
    bad["spec"]["securityContext"] = json!({ "runAsUser": 2460 });
    let answer = answer(&webhook, review("shop", bad)).await;
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["status"]["code"], 422);
    assert!(
        answer["status"]["message"]
            .as_str()
            .unwrap()
            .contains("2460")
    );
    assert_eq!(counted(&webhook, Answer::Denied), 1);
}

#[tokio::test]
async fn denial_names_the_pod_and_its_owner() {
    let webhook = webhook();
    let refusal = async |metadata: Value| {
        let mut bad = pod();
        bad["metadata"] = metadata;
        bad["spec"]["securityContext"] = json!({ "runAsUser": 2460 });
        let answer = answer(&webhook, review("shop", bad)).await;
        answer["status"]["message"].as_str().unwrap().to_owned()
    };
    let owners = json!([{ "kind": "Job", "name": "no" }, { "kind": "ReplicaSet", "name": "web-5d", "controller": true }]);
    for (metadata, begin) in [
        (json!({ "name": "web" }), "weft: pod web: "),
        (json!({ "generateName": "web-" }), "weft: pod web-*: "),
        (
            json!({ "generateName": "web-5d-", "ownerReferences": owners }),
            "weft: pod web-5d-* of ReplicaSet web-5d: ",
        ),
        (json!({}), "weft: pod without a name: "),
    ] {
        let message = refusal(metadata).await;
        assert!(message.starts_with(begin), "{message}");
    }
}

#[tokio::test]
async fn warnings_are_in_the_answer() {
    let mut odd = pod();
    odd["metadata"]["annotations"] = json!({ "weft.dev/acces-log": "all" });
    let answer = answer(&webhook(), review("shop", odd)).await;
    assert_eq!(answer["allowed"], true);
    let warnings = answer["warnings"].to_string();
    assert!(
        warnings.contains("did you mean weft.dev/access-log?"),
        "{warnings}"
    );
}

#[tokio::test]
async fn unreadable_namespace_denies_the_pod() {
    let webhook = webhook();
    let answer = answer(&webhook, review("gone", pod())).await;
    assert_eq!(answer["allowed"], false);
    assert!(
        answer["status"]["message"]
            .as_str()
            .unwrap()
            .contains("namespace gone")
    );
    assert_eq!(counted(&webhook, Answer::Failed), 1);
}

#[tokio::test]
async fn other_reviews_are_allowed_with_a_warning() {
    let webhook = webhook();
    for (field, value) in [
        ("/request/resource/resource", "services"),
        ("/request/resource/group", "apps"),
        ("/request/operation", "UPDATE"),
    ] {
        let mut review = review("shop", pod());
        *review.pointer_mut(field).unwrap() = json!(value);
        let answer = answer(&webhook, review).await;
        assert_eq!(answer["allowed"], true);
        assert!(answer.get("patch").is_none());
        assert!(answer["warnings"][0].as_str().unwrap().contains("pods"));
    }
    let mut status = review("shop", pod());
    status["request"]["subResource"] = json!("ephemeralcontainers");
    assert!(answer(&webhook, status).await.get("patch").is_none());
    assert_eq!(counted(&webhook, Answer::Ignored), 4);
}

#[tokio::test]
async fn malformed_bodies_are_4xx() {
    let webhook = webhook();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_inside = review("shop", json!("HERE"))
        .to_string()
        .replace("\"HERE\"", &deep);
    let mut wrong_version = review("shop", pod());
    wrong_version["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut no_request = review("shop", pod());
    no_request["request"] = Value::Null;
    for body in [
        Vec::new(),
        b"garbage".to_vec(),
        vec![0xff; 1000],
        b"{}".to_vec(),
        b"[]".to_vec(),
        deep.into_bytes(),
        deep_inside.into_bytes(),
        wrong_version.to_string().into_bytes(),
        no_request.to_string().into_bytes(),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, reason) = post(&webhook, body).await;
        assert_eq!(status, 400, "{shown}");
        assert!(!reason.is_empty());
    }
    assert_eq!(counted(&webhook, Answer::Malformed), 9);
    assert!(answer(&webhook, review("shop", pod())).await["patch"].is_string());
}

#[tokio::test]
async fn huge_body_is_rejected() {
    let webhook = webhook();
    let (status, _) = post(&webhook, vec![b' '; 10 * 1024 * 1024]).await;
    assert_eq!(status, 413);
    assert_eq!(counted(&webhook, Answer::Malformed), 1);
}

#[tokio::test]
async fn invalid_pods_are_denied() {
    let webhook = webhook();
    for object in [
        json!(null),
        json!([]),
        json!("pod"),
        json!({ "spec": 5 }),
        json!({ "metadata": { "labels": [1] } }),
    ] {
        let answer = answer(&webhook, review("shop", object.clone())).await;
        assert!(answer["allowed"] == false, "{object} {answer}");
    }
}
