//! The decision about one pod: a pure function from the pod, its namespace and the settings to a JSON patch,
//! a reason to leave the pod alone, or a reason to refuse it. It reads no clock and calls nobody.
//!
//! The rules, in order:
//! 1. Pods of the system namespaces are left alone.
//! 2. The pod label `weft.dev/inject` decides (`enabled` or `disabled`), else the namespace's (`enabled`). Any
//!    other value on a pod is refused: a typing error must neither open a hole nor pass unseen. In an enforced
//!    namespace (`Settings::enforced_namespaces`), so is what would keep a pod, or a part of its traffic, outside.
//! 3. Pods on the host's network and Windows pods are left alone and say why in an annotation.
//! 4. Pods that Kubernetes would refuse with what is added, that would slip past the proxy, or whose names or ports
//!    collide with what is added, are refused.
//! 5. A pod that already has the proxy is only brought in line where containers were added since, so that patching
//!    twice is patching once (see `again`).
//!
//! TCP probes of a pod that joins are asked of the proxy (see `probes`).

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
use again::Places;
use drain::Times;
pub use overrides::Overrides;
use pod::Pod;

/// Label on namespaces (`enabled`) and pods (`enabled`, `disabled`).
pub const INJECT: &str = "weft.dev/inject";
/// Annotation on a patched pod: what was added.
pub const STATUS: &str = "weft.dev/status";
/// Annotation on a pod that was asked for but left alone: why.
pub const SKIPPED: &str = "weft.dev/skipped";
/// The container that writes the redirect rules.
pub const INIT_CONTAINER: &str = "weft-init";
/// The proxy, a native sidecar.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// The label of the pods of Gateways.
const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
/// What is said where a namespace leaves its pods no choice.
const ENFORCED: &str = "pods of this namespace have to be in the mesh with all of their traffic (chart: injector.enforcedNamespaces)";
/// The volume with the proxy's token and the mesh's roots.
pub const IDENTITY_VOLUME: &str = "weft-identity";

/// What surrounds the pod.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The namespace of the admission request; the pod itself may not name one yet.
    pub namespace: &'a str,
    pub namespace_labels: &'a BTreeMap<String, String>,
    pub namespace_annotations: &'a BTreeMap<String, String>,
    pub settings: &'a Settings,
}

/// What happens to the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub outcome: Outcome,
    /// For whoever created the pod; shown by kubectl.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The pod joins the mesh by these operations.
    Inject(json_patch::Patch),
    /// The pod stays outside; the operations, if any, only note why.
    Skip {
        reason: String,
        notes: json_patch::Patch,
    },
    /// The pod must not be created as it is.
    Refuse(String),
}

/// Why a pod is not injected.
enum Stop {
    /// Nobody asked for this pod to be in the mesh, or it already is: nothing to note.
    Silently(String),
    /// Somebody asked and cannot have it: noted on the pod.
    Noted(&'static str),
    Refused(String),
}

/// Decides about `pod`, a Kubernetes Pod of version v1.
pub fn patch(pod: &Value, context: &Context<'_>) -> Decision {
    let mut warnings = Vec::new();
    let outcome = match decide(pod, context, &mut warnings) {
        Ok(operations) => Outcome::Inject(operations),
        Err(Stop::Silently(reason)) => Outcome::Skip {
            reason,
            notes: json_patch::Patch(Vec::new()),
        },
        Err(Stop::Noted(reason)) => {
            warnings.push(format!("the pod stays outside the mesh: {reason}"));
            Outcome::Skip {
                reason: reason.to_owned(),
                notes: json_patch::Patch(annotate(pod, SKIPPED, reason)),
            }
        }
        Err(Stop::Refused(reason)) => Outcome::Refuse(reason),
    };
    Decision { outcome, warnings }
}

fn decide(
    raw: &Value,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<json_patch::Patch, Stop> {
    let pod: Pod =
        Pod::read(raw).map_err(|e| Stop::Refused(format!("the pod cannot be read: {e}")))?;
    let settings = context.settings;
    let enforced = wanted(&pod, context)?;
    checks::possible(&pod).map_err(|stop| match stop {
        Stop::Noted(reason) if enforced => Stop::Refused(format!(
            "the pod would stay outside the mesh, as {reason}; {ENFORCED}"
        )),
        stop => stop,
    })?;
    checks::admitted(context.namespace, context.namespace_labels, warnings)?;
    let before = Places::of(&pod);
    checks::harmless(&pod, before.is_some())?;
    warnings.extend(annotations::labels(&pod.metadata.labels));
    let overrides = Overrides::read(
        &pod.metadata.annotations,
        context.namespace_annotations,
        settings.mtls_floor,
        warnings,
    )
    .map_err(|e| Stop::Refused(e.to_string()))?;
    if enforced {
        whole(&overrides)?;
    }
    let strict = overrides.strict(settings);
    warnings.extend(checks::warnings(&pod, strict, &overrides.exclude_inbound));

    if let Some(places) = before {
        if enforced {
            again::genuine(&pod, places, settings, &overrides)?;
        }
        warnings.extend(again::warnings(&pod, places));
        let operations = again::operations(raw, places);
        return if operations.is_empty() {
            Err(Stop::Silently(format!(
                "the pod already has {PROXY_CONTAINER}"
            )))
        } else {
            Ok(json_patch::Patch(operations))
        };
    }
    join(raw, &pod, &overrides, settings).map_err(Stop::Refused)
}

/// What puts a pod into the mesh.
fn join(
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
    // First, as the places of the init containers change after.
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

/// Rules 1 and 2: whether anybody wants this pod changed, and whether it has no say in that.
fn wanted(pod: &Pod, context: &Context<'_>) -> Result<bool, Stop> {
    let namespace = context.namespace;
    let settings = context.settings;
    if settings.system_namespaces.contains(namespace) {
        return Err(Stop::Silently(format!(
            "namespace {namespace} is never injected"
        )));
    }
    let labelled = context.namespace_labels.get(INJECT);
    let labelled = labelled.is_some_and(|value| value == "enabled");
    let enforced = labelled && settings.enforced_namespaces.contains(namespace);
    match pod.metadata.labels.get(INJECT).map(String::as_str) {
        Some("enabled") => {}
        Some("disabled") if enforced && !is_gateway(pod, settings) => {
            return Err(Stop::Refused(format!(
                "the pod's label {INJECT} is disabled; {ENFORCED}"
            )));
        }
        Some("disabled") => {
            return Err(Stop::Silently(format!(
                "the pod's label {INJECT} is disabled"
            )));
        }
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            return Err(Stop::Refused(format!(
                "the pod's label {INJECT} is {other:?}; it must be \"enabled\" or \"disabled\""
            )));
        }
        None if labelled => {}
        None => {
            return Err(Stop::Silently(format!(
                "neither the pod nor namespace {namespace} is labelled {INJECT}=enabled"
            )));
        }
    }
    Ok(enforced)
}

/// A Gateway's proxy is in the mesh without another before it. It runs nothing but the proxy's image, so nobody gains by looking
/// like one.
fn is_gateway(pod: &Pod, settings: &Settings) -> bool {
    let proxy = |container: &pod::Container| {
        container.image == settings.proxy_image && container.command.is_empty()
    };
    pod.metadata.labels.contains_key(GATEWAY) && pod.all_containers().all(proxy)
}

/// Whether all of the pod's traffic goes through the proxy, as it has to in an enforced namespace.
fn whole(overrides: &Overrides) -> Result<(), Stop> {
    let excluded = [
        (overrides::EXCLUDE_OUTBOUND, &overrides.exclude_outbound),
        (overrides::EXCLUDE_INBOUND, &overrides.exclude_inbound),
    ];
    match excluded.into_iter().find(|(_, ports)| !ports.is_empty()) {
        None => Ok(()),
        Some((name, _)) => Err(Stop::Refused(format!(
            "annotation {name} lets traffic pass by the proxy; {ENFORCED}"
        ))),
    }
}

/// Operations that put `items` before what the array at `pointer` holds, or make the array.
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

/// Operations that set one annotation and keep the others.
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

/// The tokens are escaped as RFC 6901 asks (`/` is `~1`).
fn add<'a>(tokens: impl IntoIterator<Item = &'a str>, value: Value) -> PatchOperation {
    PatchOperation::Add(json_patch::AddOperation {
        path: PointerBuf::from_tokens(tokens),
        value,
    })
}

#[cfg(test)]
mod tests;
