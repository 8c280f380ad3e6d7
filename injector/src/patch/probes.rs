//! The pod's TCP probes, asked of the proxy instead: it accepts every connection to the pod, so that a probe of the port
//! itself would succeed while nothing listens there. The proxy connects to the port and answers by HTTP.
//!
//! Probes by HTTP and gRPC stay as they are: their answers are the application's own. So do those of another host.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::{add, remove};
use crate::settings::Ports;

/// Where the proxy answers, beside `/ready`.
const PROXY_PORT: u16 = 15021;
const LISTS: [&str; 2] = ["containers", "initContainers"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// The changes, and the ports that the proxy is asked about.
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

/// The port of a probe that opens a connection to this pod.
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

/// A name is that of a port of the same container.
fn named(container: &Value, name: &str) -> Option<u64> {
    let mut ports = container.get("ports")?.as_array()?.iter();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    port.get("containerPort")?.as_u64()
}
