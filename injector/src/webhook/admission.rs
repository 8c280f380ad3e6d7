//! One request to the webhook: an AdmissionReview (`admission.k8s.io/v1`) in, one out.
//!
//! What is no AdmissionReview is answered 4xx. One that is not about creating a pod is allowed unchanged with a
//! warning: the webhook was registered for more than it serves, which is no reason to stop others' work. Nothing is kept or
//! changed anywhere by an answer, so that dry runs are answered as all others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::metrics::{Answer, Metrics};
use super::namespaces::{About, Namespaces};
use crate::patch::{Context, Decision, INJECT, Outcome, patch};
use crate::settings::Settings;

/// Bytes; Kubernetes itself takes objects of up to 3 MiB, of which etcd keeps 1.5 MiB.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub(super) struct Webhook {
    pub(super) settings: Settings,
    pub(super) namespaces: Namespaces,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    version: String,
    resource: String,
}

/// What is said about a review that could be read.
#[derive(Debug)]
struct Verdict {
    answer: Answer,
    /// The HTTP-like code and the reason of a refusal.
    refusal: Option<(u16, String)>,
    patch: Option<json_patch::Patch>,
    warnings: Vec<String>,
}

pub(super) fn router(webhook: Arc<Webhook>) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(webhook)
}

async fn mutate(
    State(webhook): State<Arc<Webhook>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let began = Instant::now();
    let (answer, response) = match body {
        Ok(body) => match read(&body) {
            Ok(request) => {
                let verdict = webhook.judge(&request).await;
                (verdict.answer, render(&request.uid, verdict))
            }
            Err(reason) => (
                Answer::Malformed,
                (StatusCode::BAD_REQUEST, reason).into_response(),
            ),
        },
        Err(rejection) => (Answer::Malformed, rejection.into_response()),
    };
    webhook.metrics.requests.get_or_create(&answer.into()).inc();
    webhook
        .metrics
        .duration
        .observe(began.elapsed().as_secs_f64());
    response
}

/// Depth is bounded by serde_json (128 levels), size by the body limit.
fn read(body: &[u8]) -> Result<Request, String> {
    let review: Review = serde_json::from_slice(body)
        .map_err(|e| format!("the body is no AdmissionReview: {e}\n"))?;
    if review.kind != "AdmissionReview" || review.api_version != "admission.k8s.io/v1" {
        return Err("only AdmissionReview of admission.k8s.io/v1 is served\n".to_owned());
    }
    review
        .request
        .ok_or_else(|| "the AdmissionReview has no request\n".to_owned())
}

impl Webhook {
    async fn judge(&self, request: &Request) -> Verdict {
        let Resource {
            group,
            version,
            resource,
        } = &request.resource;
        let is_pod = group.is_empty()
            && version == "v1"
            && resource == "pods"
            && request.sub_resource.is_empty();
        if !is_pod || request.operation != "CREATE" {
            return Verdict {
                answer: Answer::Ignored,
                refusal: None,
                patch: None,
                warnings: vec!["weft-injector only looks at the creation of pods".to_owned()],
            };
        }
        match self.about(&request.namespace).await {
            Ok(about) => self.decide(request, &about),
            Err(error) => {
                tracing::warn!(%error, namespace = request.namespace, "the namespace cannot be read");
                let reason = format!(
                    "weft-injector cannot read namespace {}: {error}",
                    request.namespace
                );
                Verdict {
                    answer: Answer::Failed,
                    refusal: Some((500, reason)),
                    patch: None,
                    warnings: Vec::new(),
                }
            }
        }
    }

    /// The API server's selectors have seen a label on the pod or on its namespace. If the watch has not, it is
    /// behind, and Kubernetes is asked.
    async fn about(&self, namespace: &str) -> kube::Result<About> {
        match self.namespaces.known(namespace) {
            Some(about) if about.labels.get(INJECT).is_some_and(|v| v == "enabled") => Ok(about),
            _ => self.namespaces.ask(namespace).await,
        }
    }

    fn decide(&self, request: &Request, about: &About) -> Verdict {
        let decision = patch(
            &request.object,
            &Context {
                namespace: &request.namespace,
                namespace_labels: &about.labels,
                namespace_annotations: &about.annotations,
                settings: &self.settings,
            },
        );
        let pod = name(&request.object);
        let verdict = verdict(decision, &pod);
        tracing::info!(
            namespace = request.namespace,
            %pod,
            dry_run = request.dry_run,
            result = ?verdict.answer,
            reason = verdict.refusal.as_ref().map(|(_, reason)| reason.as_str()),
            warnings = ?verdict.warnings,
            "decided"
        );
        verdict
    }
}

fn verdict(decision: Decision, pod: &str) -> Verdict {
    let (answer, refusal, patch) = match decision.outcome {
        Outcome::Inject(patch) => (Answer::Injected, None, Some(patch)),
        Outcome::Skip { notes, .. } => (
            Answer::Skipped,
            None,
            (!notes.0.is_empty()).then_some(notes),
        ),
        Outcome::Refuse(reason) => (
            Answer::Refused,
            Some((422, format!("weft: pod {pod}: {reason}"))),
            None,
        ),
    };
    Verdict {
        answer,
        refusal,
        patch,
        warnings: decision.warnings,
    }
}

/// As people know the pod. One that a controller makes has no name yet, but the beginning of one, and an owner.
fn name(pod: &Value) -> String {
    let text = |of: &Value, pointer| of.pointer(pointer).and_then(Value::as_str).map(short);
    let name = text(pod, "/metadata/name").filter(|name| !name.is_empty());
    let begun = || text(pod, "/metadata/generateName").map(|name| format!("{name}*"));
    let name = name
        .or_else(begun)
        .unwrap_or_else(|| "without a name".to_owned());
    let owners = pod
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true);
    match owner.and_then(|owner| Some((text(owner, "/kind")?, text(owner, "/name")?))) {
        Some((kind, owner)) => format!("{name} of {kind} {owner}"),
        None => name,
    }
}

/// Kubernetes has not checked names yet.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(253).collect()
}

fn render(uid: &str, verdict: Verdict) -> Response {
    let mut response = BTreeMap::from([
        ("uid", json!(uid)),
        ("allowed", json!(verdict.refusal.is_none())),
    ]);
    if let Some((code, message)) = verdict.refusal {
        response.insert("status", json!({ "code": code, "message": message }));
    }
    if !verdict.warnings.is_empty() {
        response.insert("warnings", json!(verdict.warnings));
    }
    if let Some(patch) = verdict.patch {
        let Ok(text) = serde_json::to_vec(&patch) else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        response.insert("patchType", json!("JSONPatch"));
        response.insert(
            "patch",
            json!(base64::engine::general_purpose::STANDARD.encode(text)),
        );
    }
    axum::Json(json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    }))
    .into_response()
}

#[cfg(test)]
pub(super) mod tests;
