//! Rewrites the pod's TCP probes to HTTP probes of the proxy. The proxy accepts every connection to
//! the pod, so that a TCP probe would succeed while nothing listens on the port. The proxy connects
//! to the port and answers by HTTP.
//!
//! Probes by HTTP and gRPC are not rewritten, as the application itself answers them; nor are those
//! of another host.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::{add, remove};
use crate::settings::Ports;

/// The port at which the proxy answers probes, beside `/ready`.
const PROXY_PORT: u16 = 15021;
const LISTS: [&str; 2] = ["containers", "initContainers"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Returns the operations, and the ports that the proxy is to probe.
pub(super) fn rewrite(raw: &Value) -> (Vec<PatchOperation>, Ports) {
    let mut operations = Vec::new();
    let mut ports = Vec::new();
    for list in LISTS {
        let containers = raw.pointer(&format!("/spec/{list}"));
        let containers = containers.and_then(Value::as_array).into_iter().flatten();
        for (index, container) in containers.enumerate() {
            for probe in PROBES {
                let Some(port) = tcp_port(container, probe) else {
                    continue;
                };
                let index = index.to_string();
                let place = ["spec", list, &index, probe];
                operations.push(remove(place.into_iter().chain(["tcpSocket"])));
                let path = format!("/probe/tcp/{port}");
                let get = json!({ "path": path, "port": PROXY_PORT, "scheme": "HTTP" });
                operations.push(add(place.into_iter().chain(["httpGet"]), get));
                ports.push(port);
            }
        }
    }
    (operations, ports.into_iter().collect())
}

/// Returns the port of a TCP probe of this pod.
fn tcp_port(container: &Value, probe: &str) -> Option<u16> {
    let socket = container.get(probe)?.get("tcpSocket")?;
    let host = socket.get("host").and_then(Value::as_str);
    if host.is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let port = socket.get("port")?;
    let number = match port.as_str() {
        None => port.as_u64(),
        Some(name) => named(container, name),
    };
    let number = u16::try_from(number?).ok();
    number.filter(|port| *port > 0)
}

/// Returns the number of a named port of the container.
fn named(container: &Value, name: &str) -> Option<u64> {
    let mut ports = container.get("ports")?.as_array()?.iter();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    port.get("containerPort")?.as_u64()
}
