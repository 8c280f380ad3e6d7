//! The decision about one pod: a pure function from the pod, its namespace and the settings to a JSON patch,
//! a reason to leave the pod alone, or a reason to refuse it. It reads no clock and calls nobody.
//!
//! The rules, in order:
//! 1. Pods of the system namespaces are left alone.
//! 2. The pod label `weft.dev/inject` decides (`enabled` or `disabled`), else the namespace's (`enabled`). Any
//!    other value on a pod is refused: a typing error must neither open a hole nor pass unseen.
//! 3. A pod that already has the proxy is left alone, so that patching twice is patching once.
//! 4. Pods on the host's network and Windows pods are left alone and say why in an annotation.
//! 5. Pods that would slip past the proxy, or whose names collide with what is added, are refused.
//!
//! TCP probes of a pod that joins are asked of the proxy (see `probes`).

mod containers;
mod drain;
mod overrides;
mod pod;
mod probes;

use std::collections::BTreeMap;

use json_patch::PatchOperation;
use json_patch::jsonptr::PointerBuf;
use serde_json::{Value, json};

use crate::settings::{OutsideGrace, PROXY_UID, Settings};
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
    wanted(&pod, context)?;
    possible(&pod)?;
    harmless(&pod)?;
    let overrides = Overrides::read(
        &pod.metadata.annotations,
        context.namespace_annotations,
        warnings,
    )
    .map_err(|e| Stop::Refused(e.to_string()))?;

    let settings = context.settings;
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
            containers::init(settings, &overrides),
            containers::proxy(settings, &overrides, times, &probed),
        ],
    ));
    operations.extend(insert_first(
        raw,
        "/spec/volumes",
        vec![containers::identity_volume()],
    ));
    operations.extend(drain::hooks(raw));
    let status = format!("injected {}", settings.proxy_image);
    operations.extend(annotate(raw, STATUS, &status));
    Ok(json_patch::Patch(operations))
}

/// Rules 1 to 3: whether anybody wants this pod changed.
fn wanted(pod: &Pod, context: &Context<'_>) -> Result<(), Stop> {
    let namespace = context.namespace;
    if context.settings.system_namespaces.contains(namespace) {
        return Err(Stop::Silently(format!(
            "namespace {namespace} is never injected"
        )));
    }
    match pod.metadata.labels.get(INJECT).map(String::as_str) {
        Some("enabled") => {}
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
        None if context
            .namespace_labels
            .get(INJECT)
            .is_some_and(|v| v == "enabled") => {}
        None => {
            return Err(Stop::Silently(format!(
                "neither the pod nor namespace {namespace} is labelled {INJECT}=enabled"
            )));
        }
    }
    if pod
        .spec
        .init_containers
        .iter()
        .any(|c| c.name == PROXY_CONTAINER)
    {
        return Err(Stop::Silently(format!(
            "the pod already has {PROXY_CONTAINER}"
        )));
    }
    Ok(())
}

/// Rule 4: whether a proxy in this pod could work at all.
fn possible(pod: &Pod) -> Result<(), Stop> {
    if pod.spec.host_network {
        return Err(Stop::Noted(
            "it uses the host's network (hostNetwork: true), where redirect rules would catch the node's traffic",
        ));
    }
    if pod.spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Stop::Noted(
            "it runs on Windows, for which there is no proxy",
        ));
    }
    Ok(())
}

/// Rule 5: whether the proxy would hold all of the pod's traffic and break nothing of the pod's own.
fn harmless(pod: &Pod) -> Result<(), Stop> {
    let bypass = |whose: &str| {
        Stop::Refused(format!(
            "{whose} runs as user {PROXY_UID}, which is the proxy's own: its traffic would pass by the proxy; \
             choose another runAsUser"
        ))
    };
    if pod
        .spec
        .security_context
        .as_ref()
        .is_some_and(|c| c.run_as_user == Some(PROXY_UID))
    {
        return Err(bypass("the pod"));
    }
    for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
        if container
            .security_context
            .as_ref()
            .is_some_and(|c| c.run_as_user == Some(PROXY_UID))
        {
            return Err(bypass(&format!("container {}", container.name)));
        }
        if container.name == INIT_CONTAINER || container.name == PROXY_CONTAINER {
            return Err(Stop::Refused(format!(
                "the pod has a container named {} of its own, a name that the mesh needs; rename it",
                container.name
            )));
        }
    }
    if pod
        .spec
        .volumes
        .iter()
        .any(|volume| volume.name == IDENTITY_VOLUME)
    {
        return Err(Stop::Refused(format!(
            "the pod has a volume named {IDENTITY_VOLUME} of its own, a name that the mesh needs; rename it"
        )));
    }
    Ok(())
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
