//! What the kubelet requests from a pod's containers over the network: probes and lifecycle hooks.
//!
//! Probes that the injector rewrote go to the proxy itself and are left out, as are those to other
//! hosts and those over TLS, whose requests a proxy cannot see.

use weft_ir::{Probe, ProbeRequest};

use super::sidecar::{PROXY_CONTAINER, READY_PORT};
use crate::objects::port_number;
use crate::objects::{Container, Handler, HttpGet, Lifecycle, PodSpec, PortRef};

/// Sorted and without duplicates.
pub(crate) fn probes(spec: &PodSpec) -> Vec<Probe> {
    let containers = spec.containers.iter().chain(&spec.init_containers);
    let mut probes: Vec<Probe> = containers
        .filter(|container| container.name != PROXY_CONTAINER)
        .flat_map(|container| handlers(container).filter_map(|handler| probe(handler, container)))
        .filter(|probe| probe.port != READY_PORT)
        .collect();
    probes.sort();
    probes.dedup();
    probes
}

fn handlers(container: &Container) -> impl Iterator<Item = &Handler> {
    let Container {
        name: _,
        redirect_args: _,
        ports: _,
        startup_probe,
        readiness_probe,
        liveness_probe,
        lifecycle,
    } = container;
    let Lifecycle {
        post_start,
        pre_stop,
    } = lifecycle;
    [
        startup_probe,
        readiness_probe,
        liveness_probe,
        post_start,
        pre_stop,
    ]
    .into_iter()
    .flatten()
}

fn probe(handler: &Handler, container: &Container) -> Option<Probe> {
    let Handler { http_get, grpc } = handler;
    if let Some(get) = http_get {
        let HttpGet {
            path,
            port,
            host,
            scheme,
        } = get;
        let plain = matches!(scheme.as_str(), "" | "HTTP");
        if !plain || !host.is_empty() {
            return None;
        }
        let port = port_number(resolve(port, container)?)?;
        let asks = ProbeRequest::Get(on_the_wire(path));
        return Some(Probe { port, asks });
    }
    let port = port_number(grpc.as_ref()?.port)?;
    let asks = ProbeRequest::GrpcHealth;
    Some(Probe { port, asks })
}

/// A port name refers to a port of the same container.
fn resolve(port: &PortRef, container: &Container) -> Option<i64> {
    match port {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => {
            let mut ports = container.ports.iter();
            ports
                .find(|of| of.name == *name)
                .map(|of| of.container_port)
        }
    }
}

/// Returns path and query as the kubelet sends them: with a leading slash, without a fragment, and
/// with characters escaped that a request target cannot contain (RFC 3986, 2.1).
fn on_the_wire(path: &str) -> String {
    let (path, _fragment) = path.split_once('#').unwrap_or((path, ""));
    let mut wire = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        wire.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | ..=b' ' | 0x7f.. => {
                wire.push_str(&format!("%{byte:02X}"));
            }
            _ => wire.push(char::from(byte)),
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_paths_are_normalized_like_the_kubelet() {
        for (path, wire) in [
            ("", "/"),
            ("/healthz", "/healthz"),
            ("healthz", "/healthz"),
            ("/a?full=1#part", "/a?full=1"),
            ("/a b/\u{e9}", "/a%20b/%C3%A9"),
            ("/%7euser", "/%7euser"),
        ] {
            assert_eq!(on_the_wire(path), wire, "{path}");
        }
    }
}
