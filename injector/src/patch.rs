//! The decision about one pod: a pure function of the pod, its namespace and the settings. It
//! returns a JSON patch, a reason to skip the pod, or a reason to deny it.
//!
//! The rules, in order:
//! 1. Pods of system namespaces are skipped.
//! 2. The pod's label `weft.dev/inject` decides (`enabled` or `disabled`), else the namespace's
//!    (`enabled`). Any other value on a pod is denied, so that a typing error is noticed. In an
//!    enforced namespace (`Settings::enforced_namespaces`), opting out, for a pod or for some of
//!    its ports, is denied too.
//! 3. Pods on the host network and Windows pods are skipped, with the reason in an annotation.
//! 4. Pods are denied that Kubernetes would reject with the added containers, whose traffic would
//!    bypass the proxy, or whose names or ports conflict with the added ones.
//! 5. A pod that already has the proxy is patched only for containers that were added since, so
//!    that the patch is idempotent (see `again`).
//!
//! TCP probes of an injected pod are sent to the proxy (see `probes`).

mod again;
mod annotations;
mod checks;
mod containers;
mod drain;
mod overrides;
mod pod;
mod probes;

use std::collections::BTreeMap;

use json_patch::PatchOperation;
use json_patch::jsonptr::PointerBuf;
use serde_json::{Value, json};

use crate::settings::{OutsideGrace, Settings};
use again::InitContainers;
use drain::Times;
pub use overrides::Overrides;
use pod::Pod;

/// Label on namespaces (`enabled`) and pods (`enabled`, `disabled`).
pub const INJECT: &str = "weft.dev/inject";
/// Annotation of an injected pod with the proxy's image.
pub const STATUS: &str = "weft.dev/status";
/// Annotation of a pod that was requested but skipped, with the reason.
pub const SKIPPED: &str = "weft.dev/skipped";
/// The init container that installs the redirect rules.
pub const INIT_CONTAINER: &str = "weft-init";
/// The proxy, a native sidecar.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// The label of the pods of Gateways.
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
/// The end of messages about enforced namespaces.
const ENFORCED: &str = "pods of this namespace must be in the mesh with all of their traffic \
                        (chart: injector.enforcedNamespaces)";
/// The volume with the proxy's token and the mesh's roots.
pub const IDENTITY_VOLUME: &str = "weft-identity";

/// The pod's namespace, and the settings.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The namespace of the admission request: the pod may not have one yet.
    pub namespace: &'a str,
    pub namespace_labels: &'a BTreeMap<String, String>,
    pub namespace_annotations: &'a BTreeMap<String, String>,
    pub settings: &'a Settings,
}

/// The decision about a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub outcome: Outcome,
    /// Warnings for the pod's creator, which kubectl shows.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The pod is injected by these operations.
    Inject(json_patch::Patch),
    /// The pod is not injected; the operations, if any, add the reason as an annotation.
    Skip {
        reason: String,
        notes: json_patch::Patch,
    },
    /// The pod must not be created.
    Deny(String),
}

/// Why a pod is not injected.
enum NotInjected {
    /// The pod was not requested, or is injected already.
    SkippedSilently(String),
    /// The pod was requested and is not supported: the reason is added as an annotation.
    SkippedWithNote(&'static str),
    Denied(String),
}

/// Decides about `pod`, a Pod of version v1.
pub fn patch(pod: &Value, context: &Context<'_>) -> Decision {
    let mut warnings = Vec::new();
    let outcome = match decide(pod, context, &mut warnings) {
        Ok(operations) => Outcome::Inject(operations),
        Err(NotInjected::SkippedSilently(reason)) => Outcome::Skip {
            reason,
            notes: json_patch::Patch(Vec::new()),
        },
        Err(NotInjected::SkippedWithNote(reason)) => {
            warnings.push(format!("the pod is not injected into the mesh: {reason}"));
            Outcome::Skip {
                reason: reason.to_owned(),
                notes: json_patch::Patch(annotate(pod, SKIPPED, reason)),
            }
        }
        Err(NotInjected::Denied(reason)) => Outcome::Deny(reason),
    };
    Decision { outcome, warnings }
}

fn decide(
    raw: &Value,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<json_patch::Patch, NotInjected> {
    let pod: Pod = Pod::read(raw)
        .map_err(|e| NotInjected::Denied(format!("the pod cannot be parsed: {e}")))?;
    let settings = context.settings;
    let enforced = requested(&pod, context)?;
    checks::check_supported(&pod).map_err(|stop| match stop {
        NotInjected::SkippedWithNote(reason) if enforced => NotInjected::Denied(format!(
            "the pod cannot be injected because {reason}; {ENFORCED}"
        )),
        stop => stop,
    })?;
    checks::check_pod_security(context.namespace, context.namespace_labels, warnings)?;
    let before = InitContainers::of(&pod);
    checks::check_conflicts(&pod, before.is_some())?;
    warnings.extend(annotations::labels(&pod.metadata.labels));
    let overrides = Overrides::read(
        &pod.metadata.annotations,
        context.namespace_annotations,
        settings.mtls_floor,
        warnings,
    )
    .map_err(|e| NotInjected::Denied(e.to_string()))?;
    if enforced {
        check_complete(&overrides)?;
    }
    let is_strict = |port| overrides.is_strict(port, settings);
    let excluded = &overrides.exclude_inbound;
    warnings.extend(checks::warnings(&pod, is_strict, excluded));

    if let Some(existing) = before {
        if enforced {
            again::check_unmodified(&pod, existing, settings, &overrides)?;
        }
        warnings.extend(again::warnings(&pod, existing));
        let operations = again::operations(raw, existing);
        return if operations.is_empty() {
            Err(NotInjected::SkippedSilently(format!(
                "the pod already has {PROXY_CONTAINER}"
            )))
        } else {
            Ok(json_patch::Patch(operations))
        };
    }
    inject(raw, &pod, &overrides, settings).map_err(NotInjected::Denied)
}

/// Returns the operations that inject a pod.
fn inject(
    raw: &Value,
    pod: &Pod,
    overrides: &Overrides,
    settings: &Settings,
) -> Result<json_patch::Patch, String> {
    let (of_proxy, of_init) = overrides.resources(settings)?;
    let times = Times::within(
        pod.spec.termination_grace_period_seconds,
        overrides.outside_grace.map(OutsideGrace::get),
    );
    // First, because the indices of init containers change afterwards.
    let (mut operations, probed) = probes::rewrite(raw);
    operations.extend(insert_first(
        raw,
        "/spec/initContainers",
        vec![
            containers::init(settings, overrides, &of_init),
            containers::proxy(settings, overrides, &of_proxy, times, &probed),
        ],
    ));
    operations.extend(insert_first(
        raw,
        "/spec/volumes",
        vec![containers::identity_volume()],
    ));
    let secrets = containers::pull_secrets(settings, &pod.spec.image_pull_secrets);
    if !secrets.is_empty() {
        operations.extend(insert_first(raw, "/spec/imagePullSecrets", secrets));
    }
    operations.extend(drain::hooks(raw));
    let status = format!("injected {}", settings.proxy_image);
    operations.extend(annotate(raw, STATUS, &status));
    Ok(json_patch::Patch(operations))
}

/// Rules 1 and 2: returns an error if the pod is not to be injected, else whether injection is
/// enforced.
fn requested(pod: &Pod, context: &Context<'_>) -> Result<bool, NotInjected> {
    let namespace = context.namespace;
    let settings = context.settings;
    if settings.system_namespaces.contains(namespace) {
        return Err(NotInjected::SkippedSilently(format!(
            "namespace {namespace} is never injected"
        )));
    }
    let labelled = context.namespace_labels.get(INJECT);
    let labelled = labelled.is_some_and(|value| value == "enabled");
    let enforced = labelled && settings.enforced_namespaces.contains(namespace);
    match pod.metadata.labels.get(INJECT).map(String::as_str) {
        Some("enabled") => {}
        Some("disabled") if enforced && !is_gateway(pod, settings) => {
            return Err(NotInjected::Denied(format!(
                "the pod's label {INJECT} is disabled; {ENFORCED}"
            )));
        }
        Some("disabled") => {
            return Err(NotInjected::SkippedSilently(format!(
                "the pod's label {INJECT} is disabled"
            )));
        }
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            return Err(NotInjected::Denied(format!(
                "the pod's label {INJECT} is {other:?}; it must be \"enabled\" or \"disabled\""
            )));
        }
        None if labelled => {}
        None => {
            return Err(NotInjected::SkippedSilently(format!(
                "neither the pod nor namespace {namespace} is labelled {INJECT}=enabled"
            )));
        }
    }
    Ok(enforced)
}

/// Returns true for a Gateway's proxy, which is in the mesh without a sidecar. It runs only the
/// proxy's image, so that no other pod can opt out by the label.
fn is_gateway(pod: &Pod, settings: &Settings) -> bool {
    let proxy = |container: &pod::Container| {
        container.image == settings.proxy_image && container.command.is_empty()
    };
    pod.metadata.labels.contains_key(GATEWAY) && pod.all_containers().all(proxy)
}

/// Checks that all of the pod's traffic goes through the proxy, as is required in an enforced
/// namespace.
fn check_complete(overrides: &Overrides) -> Result<(), NotInjected> {
    let excluded = [
        (overrides::EXCLUDE_OUTBOUND, &overrides.exclude_outbound),
        (overrides::EXCLUDE_INBOUND, &overrides.exclude_inbound),
    ];
    match excluded.into_iter().find(|(_, ports)| !ports.is_empty()) {
        None => Ok(()),
        Some((name, _)) => Err(NotInjected::Denied(format!(
            "annotation {name} excludes traffic from the proxy; {ENFORCED}"
        ))),
    }
}

/// Returns operations that insert `items` at the beginning of the array at `pointer`, or create it.
fn insert_first(raw: &Value, pointer: &str, items: Vec<Value>) -> Vec<PatchOperation> {
    if raw.pointer(pointer).is_some_and(Value::is_array) {
        items
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                add(
                    pointer
                        .split('/')
                        .skip(1)
                        .chain([index.to_string().as_str()]),
                    item,
                )
            })
            .collect()
    } else {
        vec![add(pointer.split('/').skip(1), Value::Array(items))]
    }
}

/// Returns operations that set one annotation and keep the others.
fn annotate(raw: &Value, name: &str, value: &str) -> Vec<PatchOperation> {
    if raw
        .pointer("/metadata/annotations")
        .is_some_and(Value::is_object)
    {
        vec![add(["metadata", "annotations", name], json!(value))]
    } else if raw.get("metadata").is_some_and(Value::is_object) {
        vec![add(["metadata", "annotations"], json!({ name: value }))]
    } else {
        vec![add(["metadata"], json!({ "annotations": { name: value } }))]
    }
}

fn remove<'a>(tokens: impl IntoIterator<Item = &'a str>) -> PatchOperation {
    PatchOperation::Remove(json_patch::RemoveOperation {
        path: PointerBuf::from_tokens(tokens),
    })
}

/// Returns an add operation; the tokens are escaped by RFC 6901 (`/` is `~1`).
fn add<'a>(tokens: impl IntoIterator<Item = &'a str>, value: Value) -> PatchOperation {
    PatchOperation::Add(json_patch::AddOperation {
        path: PointerBuf::from_tokens(tokens),
        value,
    })
}

#[cfg(test)]
mod tests;
