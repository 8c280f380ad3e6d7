//! Pods that were injected before: Kubernetes calls the webhook again after another one has changed
//! the pod (`reinvocationPolicy`), and copies of running pods have the containers of the original.
//! Containers that were added since are patched; others are not changed.

use json_patch::jsonptr::PointerBuf;
use json_patch::{PatchOperation, ReplaceOperation};
use serde_json::{Value, json};

use super::pod::{Container, Pod};
use super::{
    INIT_CONTAINER, NotInjected, Overrides, PROXY_CONTAINER, add, containers, drain, probes,
};
use crate::settings::{Ports, Settings};

const PROBE_PORTS: &str = "WEFT_PROBE_PORTS";

/// The indices of Weft's two init containers.
#[derive(Clone, Copy, Debug)]
pub(super) struct InitContainers {
    init: usize,
    proxy: usize,
}

impl InitContainers {
    /// Returns `None` unless both exist and have the form of injected ones.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let containers = &pod.spec.init_containers;
        let index = |name: &str| {
            containers
                .iter()
                .position(|container| container.name == name)
        };
        let (init, proxy) = (index(INIT_CONTAINER)?, index(PROXY_CONTAINER)?);
        let sidecar = containers.get(proxy)?.restart_policy.as_deref() == Some("Always");
        let redirects = redirects(containers.get(init)?);
        (init < proxy && sidecar && redirects).then_some(Self { init, proxy })
    }
}

fn redirects(container: &Container) -> bool {
    container
        .args
        .first()
        .is_some_and(|verb| verb == "redirect")
}

/// Returns operations for containers that were added since: their hooks and their TCP probes.
pub(super) fn operations(raw: &Value, existing: InitContainers) -> Vec<PatchOperation> {
    let (mut operations, probed) = probes::rewrite(raw);
    if !probed.is_empty() {
        operations.push(probe_ports(raw, existing.proxy, &probed));
    }
    operations.extend(drain::hooks(raw));
    operations
}

/// Adds ports to those that the proxy may probe.
fn probe_ports(raw: &Value, proxy: usize, more: &Ports) -> PatchOperation {
    let env = format!("/spec/initContainers/{proxy}/env");
    let set = raw.pointer(&env).and_then(Value::as_array);
    let set = set.map_or(&[][..], Vec::as_slice);
    let known = set
        .iter()
        .position(|one| one.get("name").and_then(Value::as_str) == Some(PROBE_PORTS));
    let proxy = proxy.to_string();
    let env = ["spec", "initContainers", &proxy, "env"];
    match known {
        Some(at) => {
            let before = set.get(at).and_then(|one| one.get("value"));
            let before: Option<Ports> = before
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok());
            let all: Ports = before
                .iter()
                .flat_map(Ports::iter)
                .chain(more.iter())
                .collect();
            let at = at.to_string();
            PatchOperation::Replace(ReplaceOperation {
                path: PointerBuf::from_tokens(env.into_iter().chain([at.as_str(), "value"])),
                value: json!(all.to_string()),
            })
        }
        None => {
            let item = json!({ "name": PROBE_PORTS, "value": more.to_string() });
            if set.is_empty() {
                add(env, json!([item]))
            } else {
                add(env.into_iter().chain(["-"]), item)
            }
        }
    }
}

/// Returns warnings about init containers that start before the proxy: their traffic is outside the
/// mesh.
pub(super) fn warnings(pod: &Pod, existing: InitContainers) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, container) in pod.spec.init_containers.iter().enumerate() {
        if index < existing.init {
            warnings.push(format!(
                "init container {} starts before {INIT_CONTAINER}: its connections are outside the \
                 mesh",
                container.name
            ));
        } else if index > existing.init && index < existing.proxy {
            warnings.push(format!(
                "init container {} starts between {INIT_CONTAINER} and {PROXY_CONTAINER}: it has \
                 no network",
                container.name
            ));
        }
    }
    warnings
}

/// Checks, in an enforced namespace, that the containers with Weft's names are as the injector adds
/// them.
pub(super) fn check_unmodified(
    pod: &Pod,
    existing: InitContainers,
    settings: &Settings,
    overrides: &Overrides,
) -> Result<(), NotInjected> {
    let containers = &pod.spec.init_containers;
    let of = |index: usize, image: &str, args: &[String]| {
        containers.get(index).is_some_and(|container| {
            container.image == image && container.args == args && container.command.is_empty()
        })
    };
    let init = of(
        existing.init,
        &settings.init_image,
        &containers::init_args(overrides),
    );
    let proxy = of(existing.proxy, &settings.proxy_image, &[]);
    let other = match (init, proxy) {
        (true, true) => return Ok(()),
        (false, _) => INIT_CONTAINER,
        (true, false) => PROXY_CONTAINER,
    };
    Err(NotInjected::Denied(format!(
        "the pod has a container {other} that differs from the injected one, which is not \
         permitted in its namespace (chart: injector.enforcedNamespaces); remove {INIT_CONTAINER} \
         and {PROXY_CONTAINER} from the pod"
    )))
}
