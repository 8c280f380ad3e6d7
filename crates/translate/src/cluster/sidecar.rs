//! Ports of a pod in the mesh whose incoming connections pass by its proxy: whoever dials them has to speak plain text.
//!
//! They are the proxy's own, which the redirect rules leave alone or refuse, and those that the pod excludes. The rules
//! are written once, when the pod starts, by its init container: where that says what it excludes, its word counts, and
//! not the annotation, which may have been edited since.

use std::collections::BTreeSet;

use crate::objects::{Meta, PodSpec};

/// The container whose presence means that a pod is in the mesh.
pub(crate) const PROXY_CONTAINER: &str = "weft-proxy";
/// The container that writes a pod's redirect rules.
const INIT_CONTAINER: &str = "weft-init";
const EXCLUDE: &str = "weft.dev/exclude-inbound-ports";
const EXCLUDE_FLAG: &str = "--exclude-inbound-ports=";

/// Where the proxy answers itself: `/ready` and `/probe/...`.
pub(crate) const READY_PORT: u16 = 15021;
/// The proxy's own: outbound and inbound, which cannot be dialled, metrics and readiness.
const PROXY_PORTS: [u16; 4] = [15001, 15006, 15020, READY_PORT];

/// The ports that a pod excludes beside the proxy's own.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Excluded(BTreeSet<u16>);

impl Excluded {
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

    /// Whether connections to the port meet no proxy.
    pub(crate) fn bypasses(&self, port: u16) -> bool {
        PROXY_PORTS.contains(&port) || self.0.contains(&port)
    }
}

/// `None` of what the injector refuses: no port is excluded then.
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
    fn lists_are_read_as_the_injector_reads_them() {
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
