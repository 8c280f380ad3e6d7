//! Requests to the webhook: an AdmissionReview (`admission.k8s.io/v1`) in, one out.
//!
//! Other requests are answered with 4xx. A review that is not the creation of a pod is allowed
//! unchanged with a warning: the webhook is registered for more than it serves, which must not
//! block others. Answers have no side effects, so dry runs are answered as other requests.

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
use super::namespaces::{NamespaceMeta, Namespaces};
use crate::patch::{Context, Decision, INJECT, Outcome, patch};
use crate::settings::Settings;

/// The maximum size of a body in bytes; Kubernetes accepts objects of up to 3 MiB.
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

/// The answer to a valid review.
#[derive(Debug)]
struct Verdict {
    answer: Answer,
    /// The status code and the reason of a denial.
    denial: Option<(u16, String)>,
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
        .map_err(|e| format!("the body is not an AdmissionReview: {e}\n"))?;
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
                denial: None,
                patch: None,
                warnings: vec!["weft-injector handles only the creation of pods".to_owned()],
            };
        }
        match self.namespace_meta(&request.namespace).await {
            Ok(meta) => self.decide(request, &meta),
            Err(error) => {
                tracing::warn!(%error, namespace = request.namespace, "reading the namespace failed; check that the API server answers and the injector's ClusterRole for namespaces");
                let reason = format!(
                    "weft-injector could not read namespace {}: {error}",
                    request.namespace
                );
                Verdict {
                    answer: Answer::Failed,
                    denial: Some((500, reason)),
                    patch: None,
                    warnings: Vec::new(),
                }
            }
        }
    }

    /// Returns the metadata of a namespace. The API server's selectors have matched a label of the
    /// pod or its namespace: if the watch does not show the namespace's label, it may lag behind,
    /// and the namespace is read.
    async fn namespace_meta(&self, namespace: &str) -> kube::Result<NamespaceMeta> {
        match self.namespaces.cached(namespace) {
            Some(meta) if meta.labels.get(INJECT).is_some_and(|v| v == "enabled") => Ok(meta),
            _ => self.namespaces.get(namespace).await,
        }
    }

    fn decide(&self, request: &Request, meta: &NamespaceMeta) -> Verdict {
        let decision = patch(
            &request.object,
            &Context {
                namespace: &request.namespace,
                namespace_labels: &meta.labels,
                namespace_annotations: &meta.annotations,
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
            reason = verdict.denial.as_ref().map(|(_, reason)| reason.as_str()),
            warnings = ?verdict.warnings,
            "pod reviewed"
        );
        verdict
    }
}

fn verdict(decision: Decision, pod: &str) -> Verdict {
    let (answer, denial, patch) = match decision.outcome {
        Outcome::Inject(patch) => (Answer::Injected, None, Some(patch)),
        Outcome::Skip { notes, .. } => (
            Answer::Skipped,
            None,
            (!notes.0.is_empty()).then_some(notes),
        ),
        Outcome::Deny(reason) => (
            Answer::Denied,
            Some((422, format!("weft: pod {pod}: {reason}"))),
            None,
        ),
    };
    Verdict {
        answer,
        denial,
        patch,
        warnings: decision.warnings,
    }
}

/// Returns the pod's name for messages. A pod of a controller has no name yet, but the prefix of
/// one and an owner.
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

/// Limits a name, which Kubernetes has not validated yet.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(253).collect()
}

fn render(uid: &str, verdict: Verdict) -> Response {
    let mut response = BTreeMap::from([
        ("uid", json!(uid)),
        ("allowed", json!(verdict.denial.is_none())),
    ]);
    if let Some((code, message)) = verdict.denial {
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
