//! Whether a proxy in the pod could work, would hold all of its traffic, and would break nothing of the pod's own.

use std::collections::BTreeMap;

use super::pod::{Action, Container, Handler, Named, Pod, Port};
use super::{IDENTITY_VOLUME, INIT_CONTAINER, PROXY_CONTAINER, Stop};
use crate::settings::{PROXY_UID, Ports};

/// Kubernetes' own label of namespaces: what pods there may ask for.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const WARN: &str = "pod-security.kubernetes.io/warn";

/// TCP ports that the proxy takes in the pod, and for what.
const PROXY_PORTS: [(i64, &str); 4] = [
    (15001, "what the pod sends"),
    (15006, "what the pod receives"),
    (15020, "its metrics"),
    (PROXY_HTTP, "its readiness"),
];
/// Where the injector's own changes send probes and hooks.
const PROXY_HTTP: i64 = 15021;

/// Whether a proxy in this pod could work at all.
pub(super) fn possible(pod: &Pod) -> Result<(), Stop> {
    if pod.spec.host_network {
        return Err(Stop::Noted(
            "it uses the host's network (hostNetwork: true), where redirect rules would catch the node's traffic",
        ));
    }
    let selected = |label: &str| pod.spec.node_selector.get(label).map(String::as_str);
    if pod.spec.os.as_ref().is_some_and(|os| os.name == "windows")
        || selected("kubernetes.io/os") == Some("windows")
    {
        return Err(Stop::Noted(
            "it runs on Windows, for which there is no proxy",
        ));
    }
    Ok(())
}

/// Whether Kubernetes would admit the init container, which no pod of a level below `privileged` may have. Kubernetes' own refusal
/// comes after this one, and speaks of a container that the pod's author has never seen.
pub(super) fn admitted(
    namespace: &str,
    labels: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(), Stop> {
    let limited = |label: &str| {
        let level = labels.get(label).map(String::as_str);
        level.filter(|level| matches!(*level, "baseline" | "restricted"))
    };
    if let Some(level) = limited(ENFORCE) {
        return Err(Stop::Refused(format!(
            "namespace {namespace} enforces the Pod Security level {level} (label {ENFORCE}), which forbids the capability \
             NET_ADMIN that {INIT_CONTAINER} needs to write the redirect rules; set the label to privileged, or keep the pod \
             outside the mesh by its label weft.dev/inject: disabled"
        )));
    }
    if let Some(level) = limited(WARN) {
        warnings.push(format!(
            "{INIT_CONTAINER}, which the mesh adds, needs NET_ADMIN: more than the Pod Security level {level} allows ({WARN})"
        ));
    }
    Ok(())
}

/// `ours`: whether the containers and the volume of Weft's names are Weft's own, from an earlier round.
pub(super) fn harmless(pod: &Pod, ours: bool) -> Result<(), Stop> {
    let own = pod.spec.security_context.as_ref();
    if own.is_some_and(|context| context.run_as_user == Some(PROXY_UID)) {
        return Err(bypass("the pod"));
    }
    let init = pod.spec.init_containers.iter().map(|one| (one, ours));
    let others = pod.spec.containers.iter().map(|one| (one, false));
    for (container, ours) in init.chain(others) {
        if container.name == INIT_CONTAINER || container.name == PROXY_CONTAINER {
            if ours {
                continue;
            }
            return Err(Stop::Refused(format!(
                "the pod has a container named {} of its own, a name that the mesh needs; rename it",
                container.name
            )));
        }
        let context = container.security_context.as_ref();
        if context.is_some_and(|context| context.run_as_user == Some(PROXY_UID)) {
            return Err(bypass(&format!("container {}", container.name)));
        }
        ports(container)?;
    }
    let taken = |volume: &Named| volume.name == IDENTITY_VOLUME;
    if !ours && pod.spec.volumes.iter().any(taken) {
        return Err(Stop::Refused(format!(
            "the pod has a volume named {IDENTITY_VOLUME} of its own, a name that the mesh needs; rename it"
        )));
    }
    Ok(())
}

fn bypass(whose: &str) -> Stop {
    Stop::Refused(format!(
        "{whose} runs as user {PROXY_UID}, which is the proxy's own: its traffic would pass by the proxy; \
         choose another runAsUser"
    ))
}

/// Whether the container wants a port that the proxy listens on, as far as it says so.
fn ports(container: &Container) -> Result<(), Stop> {
    let name = &container.name;
    let taken = |number: i64| PROXY_PORTS.into_iter().find(|(port, _)| *port == number);
    let mut tcp = container.ports.iter().filter(|port| port.is_tcp());
    if let Some((port, what)) = tcp.find_map(|port| taken(port.container_port)) {
        return Err(Stop::Refused(format!(
            "container {name} declares port {port}, which the proxy needs in every pod of the mesh for {what}; \
             let the application listen on another port"
        )));
    }
    for (field, handler) in container.handlers() {
        let Some(action) = handler.action() else {
            continue;
        };
        if handler.http_get.is_some() && ours(action) {
            continue;
        }
        if let Some((port, what)) = container.number(&action.port).and_then(taken) {
            return Err(Stop::Refused(format!(
                "{field} of container {name} asks port {port}, which the proxy needs in every pod of the mesh for {what}; \
                 let the application listen on another port"
            )));
        }
    }
    Ok(())
}

/// What an earlier round has made of a probe or a hook.
fn ours(action: &Action) -> bool {
    let port = matches!(action.port, Port::Number(PROXY_HTTP));
    port && (action.path == "/drain" || action.path.starts_with("/probe/tcp/"))
}

/// What will work less well than the pod's author may expect, or is easier to go round.
pub(super) fn warnings(pod: &Pod, strict: bool, excluded: &Ports) -> Vec<String> {
    let mut warnings = Vec::new();
    if pod.spec.share_process_namespace {
        warnings.push(
            "shareProcessNamespace: containers that run as root see the proxy's process and may read its key".to_owned(),
        );
    }
    let virtual_node = pod.spec.node_selector.get("type").map(String::as_str)
        == Some("virtual-kubelet")
        || pod
            .spec
            .tolerations
            .iter()
            .any(|toleration| toleration.key == "virtual-kubelet.io/provider");
    if virtual_node {
        warnings.push(
            "the pod may run on a virtual node: where NET_ADMIN or native sidecars are missing there, it does not start"
                .to_owned(),
        );
    }
    let added = pod
        .all_containers()
        .filter(|container| container.name != INIT_CONTAINER && container.name != PROXY_CONTAINER);
    for container in added {
        let name = &container.name;
        if let Some(power) = power(container) {
            warnings.push(format!(
                "container {name} {power}: it can pass by the proxy"
            ));
        }
        if !strict {
            continue;
        }
        let host_port = container
            .ports
            .iter()
            .find(|port| port.is_tcp() && port.host_port > 0);
        if let Some(port) = host_port {
            warnings.push(format!(
                "hostPort {} of container {name}: what comes by it is plain text, which the pod refuses (mtls: strict)",
                port.host_port
            ));
        }
        for (field, handler) in container.handlers() {
            if let Some(port) = unseen(container, handler)
                && !u16::try_from(port).is_ok_and(|port| excluded.contains(port))
            {
                warnings.push(format!(
                    "{field} of container {name} asks port {port} by HTTPS, which the pod refuses (mtls: strict); see \
                     weft.dev/exclude-inbound-ports"
                ));
            }
        }
    }
    warnings
}

/// Why a container can change the redirect rules, or become the proxy's user, by what it asks for.
fn power(container: &Container) -> Option<String> {
    let context = container.security_context.as_ref()?;
    if context.privileged {
        return Some("is privileged".to_owned());
    }
    let mut added = context.capabilities.add.iter();
    let added = added.find(|name| {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        matches!(name, "NET_ADMIN" | "SYS_ADMIN" | "SETUID" | "ALL")
    })?;
    let added: String = added.chars().take(20).collect();
    Some(format!("has the capability {added}"))
}

/// The port of a check by HTTPS, of which the proxy cannot see whether it is the kubelet's.
fn unseen(container: &Container, handler: &Handler) -> Option<i64> {
    let action = handler.http_get.as_ref()?;
    let own = action.host.is_empty() && action.scheme.eq_ignore_ascii_case("https");
    own.then(|| container.number(&action.port)).flatten()
}
