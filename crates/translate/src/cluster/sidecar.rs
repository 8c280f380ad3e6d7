//! What the injector adds to a pod: the names of its containers, and the ports whose incoming
//! connections bypass the proxy, so that clients have to use plain text.
//!
//! These are the proxy's own ports, which the redirect rules exempt or reject, and the ports that
//! the pod excludes. The init container writes the rules once when the pod starts. Its arguments
//! therefore take precedence over the annotation, which can have been edited since.

use std::collections::BTreeSet;

use crate::objects::{Meta, PodSpec};

/// The container whose presence means that a pod is in the mesh.
pub(crate) const PROXY_CONTAINER: &str = "weft-proxy";
/// The container that writes the redirect rules of a pod.
const INIT_CONTAINER: &str = "weft-init";
const EXCLUDE: &str = "weft.dev/exclude-inbound-ports";
const EXCLUDE_FLAG: &str = "--exclude-inbound-ports=";

/// Port on which the proxy itself answers `/ready` and `/probe/...`.
pub(crate) const READY_PORT: u16 = 15021;
/// The proxy's own ports: outbound and inbound, which accept no direct connections, metrics and
/// readiness.
const PROXY_PORTS: [u16; 4] = [15001, 15006, 15020, READY_PORT];

/// The ports that a pod excludes, apart from the proxy's own.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ExcludedPorts(BTreeSet<u16>);

impl ExcludedPorts {
    pub(crate) fn of(meta: &Meta, spec: &PodSpec) -> Self {
        let mut containers = spec.init_containers.iter().chain(&spec.containers);
        let init = containers.find(|container| container.name == INIT_CONTAINER);
        let flags = init.map_or(&[][..], |container| &container.redirect_args);
        let text = if flags.is_empty() {
            meta.annotations.get(EXCLUDE).map(String::as_str)
        } else {
            flags
                .iter()
                .find_map(|flag| flag.strip_prefix(EXCLUDE_FLAG))
        };
        Self(text.and_then(ports).unwrap_or_default())
    }

    /// Returns true if connections to the port bypass the proxy.
    pub(crate) fn bypasses(&self, port: u16) -> bool {
        PROXY_PORTS.contains(&port) || self.0.contains(&port)
    }
}

/// Returns `None` for a value that the injector rejects; no port is excluded then.
fn ports(text: &str) -> Option<BTreeSet<u16>> {
    let parts = text.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    let port = |part: &str| part.parse().ok().filter(|port| *port != 0);
    parts.map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_lists_are_parsed_like_in_the_injector() {
        for (text, expected) in [
            ("", Some(vec![])),
            ("9000, 80,80", Some(vec![80, 9000])),
            (",8080,", Some(vec![8080])),
            ("0", None),
            ("65536", None),
            ("http", None),
            ("80,http", None),
            ("*", None),
        ] {
            let expected = expected.map(BTreeSet::from_iter);
            assert_eq!(ports(text), expected, "{text}");
        }
    }
}
