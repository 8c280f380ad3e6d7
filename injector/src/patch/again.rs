//! A pod that has been patched before: Kubernetes asks again when another webhook changed it after (`reinvocationPolicy`), and
//! copies of running pods come with what theirs were given. What was added since is brought in line; what is there stays.

use json_patch::jsonptr::PointerBuf;
use json_patch::{PatchOperation, ReplaceOperation};
use serde_json::{Value, json};

use super::pod::{Container, Pod};
use super::{INIT_CONTAINER, Overrides, PROXY_CONTAINER, Stop, add, containers, drain, probes};
use crate::settings::{Ports, Settings};

const PROBE_PORTS: &str = "WEFT_PROBE_PORTS";

/// Where Weft's two init containers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    init: usize,
    proxy: usize,
}

impl Places {
    /// `None` unless both are there, and work as those that the injector adds.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let containers = &pod.spec.init_containers;
        let place = |name: &str| {
            containers
                .iter()
                .position(|container| container.name == name)
        };
        let (init, proxy) = (place(INIT_CONTAINER)?, place(PROXY_CONTAINER)?);
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

/// Operations on containers that came later: those without a hook, and with probes that are asked of the proxy.
pub(super) fn operations(raw: &Value, places: Places) -> Vec<PatchOperation> {
    let (mut operations, probed) = probes::rewrite(raw);
    if !probed.is_empty() {
        operations.push(probe_ports(raw, places.proxy, &probed));
    }
    operations.extend(drain::hooks(raw));
    operations
}

/// Tells the proxy of more ports that it will be asked about.
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

/// Of init containers that start before the proxy: their traffic is not the mesh's.
pub(super) fn warnings(pod: &Pod, places: Places) -> Vec<String> {
    let mut warnings = Vec::new();
    for (place, container) in pod.spec.init_containers.iter().enumerate() {
        if place < places.init {
            warnings.push(format!(
                "init container {} starts before {INIT_CONTAINER}: its connections are outside the mesh",
                container.name
            ));
        } else if place > places.init && place < places.proxy {
            warnings.push(format!(
                "init container {} starts between {INIT_CONTAINER} and {PROXY_CONTAINER}: it has no network",
                container.name
            ));
        }
    }
    warnings
}

/// Where pods cannot choose to be outside the mesh, containers of Weft's names have to be Weft's.
pub(super) fn genuine(
    pod: &Pod,
    places: Places,
    settings: &Settings,
    overrides: &Overrides,
) -> Result<(), Stop> {
    let containers = &pod.spec.init_containers;
    let of = |place: usize, image: &str, args: &[String]| {
        containers.get(place).is_some_and(|container| {
            container.image == image && container.args == args && container.command.is_empty()
        })
    };
    let init = of(
        places.init,
        &settings.init_image,
        &containers::init_args(overrides),
    );
    let proxy = of(places.proxy, &settings.proxy_image, &[]);
    let other = match (init, proxy) {
        (true, true) => return Ok(()),
        (false, _) => INIT_CONTAINER,
        (true, false) => PROXY_CONTAINER,
    };
    Err(Stop::Refused(format!(
        "the pod comes with a container {other} that is not as the injector adds it, and pods of its namespace cannot choose \
         that (chart: injector.enforcedNamespaces); leave {INIT_CONTAINER} and {PROXY_CONTAINER} out of the pod"
    )))
}
