//! Checks that a proxy works in the pod, gets all of its traffic, and does not conflict with the
//! pod's containers.

use std::collections::BTreeMap;

use super::pod::{Action, Container, Handler, Named, Pod, Port};
use super::{IDENTITY_VOLUME, INIT_CONTAINER, NotInjected, PROXY_CONTAINER};
use crate::settings::{PROXY_UID, Ports};

/// The labels of namespaces for the Pod Security level.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const WARN: &str = "pod-security.kubernetes.io/warn";

/// The TCP ports that the proxy listens on, and their purposes.
const PROXY_PORTS: [(i64, &str); 4] = [
    (15001, "outbound traffic"),
    (15006, "inbound traffic"),
    (15020, "its metrics"),
    (PROXY_HTTP, "its readiness"),
];
/// The proxy's port for rewritten probes and hooks.
const PROXY_HTTP: i64 = 15021;

/// Checks that the pod supports a proxy.
pub(super) fn check_supported(pod: &Pod) -> Result<(), NotInjected> {
    if pod.spec.host_network {
        return Err(NotInjected::SkippedWithNote(
            "it uses the host network (hostNetwork: true), where redirect rules would apply to the \
             node's traffic",
        ));
    }
    let selected = |label: &str| pod.spec.node_selector.get(label).map(String::as_str);
    if pod.spec.os.as_ref().is_some_and(|os| os.name == "windows")
        || selected("kubernetes.io/os") == Some("windows")
    {
        return Err(NotInjected::SkippedWithNote(
            "it runs on Windows, which the proxy does not support",
        ));
    }
    Ok(())
}

/// Checks that the namespace's Pod Security level admits the init container, which only
/// `privileged` does. Kubernetes would deny the pod too, but with a message about a container that
/// the pod's author does not know.
pub(super) fn check_pod_security(
    namespace: &str,
    labels: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(), NotInjected> {
    let limited = |label: &str| {
        let level = labels.get(label).map(String::as_str);
        level.filter(|level| matches!(*level, "baseline" | "restricted"))
    };
    if let Some(level) = limited(ENFORCE) {
        return Err(NotInjected::Denied(format!(
            "namespace {namespace} enforces the Pod Security level {level} (label {ENFORCE}), \
             which forbids the capability NET_ADMIN that {INIT_CONTAINER} needs to install the \
             redirect rules; set the label to privileged, or opt the pod out of the mesh by its \
             label weft.dev/inject: disabled"
        )));
    }
    if let Some(level) = limited(WARN) {
        warnings.push(format!(
            "the added container {INIT_CONTAINER} needs NET_ADMIN, which the Pod Security level \
             {level} forbids ({WARN})"
        ));
    }
    Ok(())
}

/// Checks that the pod has no conflicting names, ports or users. With `ours`, containers and the
/// volume with Weft's names are from an earlier injection.
pub(super) fn check_conflicts(pod: &Pod, ours: bool) -> Result<(), NotInjected> {
    let own = pod.spec.security_context.as_ref();
    if own.is_some_and(|context| context.run_as_user == Some(PROXY_UID)) {
        return Err(runs_as_proxy("the pod"));
    }
    let init = pod.spec.init_containers.iter().map(|one| (one, ours));
    let others = pod.spec.containers.iter().map(|one| (one, false));
    for (container, ours) in init.chain(others) {
        if container.name == INIT_CONTAINER || container.name == PROXY_CONTAINER {
            if ours {
                continue;
            }
            return Err(NotInjected::Denied(format!(
                "the pod has a container named {}, which is reserved for the mesh; rename it",
                container.name
            )));
        }
        let context = container.security_context.as_ref();
        if context.is_some_and(|context| context.run_as_user == Some(PROXY_UID)) {
            return Err(runs_as_proxy(&format!("container {}", container.name)));
        }
        ports(container)?;
    }
    let taken = |volume: &Named| volume.name == IDENTITY_VOLUME;
    if !ours && pod.spec.volumes.iter().any(taken) {
        return Err(NotInjected::Denied(format!(
            "the pod has a volume named {IDENTITY_VOLUME}, which is reserved for the mesh; rename \
             it"
        )));
    }
    Ok(())
}

fn runs_as_proxy(whose: &str) -> NotInjected {
    NotInjected::Denied(format!(
        "{whose} runs as user {PROXY_UID}, the proxy's user, whose traffic bypasses the proxy; \
         choose another runAsUser"
    ))
}

/// Checks that the container declares no port of the proxy.
fn ports(container: &Container) -> Result<(), NotInjected> {
    let name = &container.name;
    let taken = |number: i64| PROXY_PORTS.into_iter().find(|(port, _)| *port == number);
    let mut tcp = container.ports.iter().filter(|port| port.is_tcp());
    if let Some((port, what)) = tcp.find_map(|port| taken(port.container_port)) {
        return Err(NotInjected::Denied(format!(
            "container {name} declares port {port}, which the proxy uses for {what}; configure the \
             application to listen on another port"
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
            return Err(NotInjected::Denied(format!(
                "{field} of container {name} uses port {port}, which the proxy uses for {what}; \
                 configure the application to listen on another port"
            )));
        }
    }
    Ok(())
}

/// Returns true for a probe or hook of an earlier injection.
fn ours(action: &Action) -> bool {
    let port = matches!(action.port, Port::Number(PROXY_HTTP));
    port && (action.path == "/drain" || action.path.starts_with("/probe/tcp/"))
}

/// Returns warnings about what does not work as the pod's author may expect, and about ways around
/// the proxy. `is_strict`: whether a port rejects plain text.
pub(super) fn warnings(
    pod: &Pod,
    is_strict: impl Fn(u16) -> bool,
    excluded: &Ports,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if pod.spec.share_process_namespace {
        warnings.push(
            "shareProcessNamespace: containers that run as root can read the proxy's memory, with its key".to_owned(),
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
            "the pod may be scheduled to a virtual node: it does not start there without NET_ADMIN \
             and native sidecars"
                .to_owned(),
        );
    }
    let added = pod
        .all_containers()
        .filter(|container| container.name != INIT_CONTAINER && container.name != PROXY_CONTAINER);
    for container in added {
        let name = &container.name;
        if let Some(privilege) = privilege(container) {
            warnings.push(format!(
                "container {name} {privilege}: it can bypass the proxy"
            ));
        }
        let is_strict = |port: i64| u16::try_from(port).is_ok_and(&is_strict);
        let host_port = container
            .ports
            .iter()
            .find(|port| port.is_tcp() && port.host_port > 0 && is_strict(port.container_port));
        if let Some(port) = host_port {
            warnings.push(format!(
                "hostPort {} of container {name}: its clients send plain text, which the pod \
                 rejects (mtls: strict)",
                port.host_port
            ));
        }
        for (field, handler) in container.handlers() {
            if let Some(port) = https_port(container, handler)
                && is_strict(port)
                && !u16::try_from(port).is_ok_and(|port| excluded.contains(port))
            {
                warnings.push(format!(
                    "{field} of container {name} probes port {port} by HTTPS, which the pod \
                     rejects (mtls: strict); see weft.dev/exclude-inbound-ports"
                ));
            }
        }
    }
    warnings
}

/// Returns the privilege by which a container can change the redirect rules or become the proxy's
/// user.
fn privilege(container: &Container) -> Option<String> {
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

/// Returns the port of an HTTPS probe: the proxy cannot recognize the kubelet's probes in TLS.
fn https_port(container: &Container, handler: &Handler) -> Option<i64> {
    let action = handler.http_get.as_ref()?;
    let own = action.host.is_empty() && action.scheme.eq_ignore_ascii_case("https");
    own.then(|| container.number(&action.port)).flatten()
}
