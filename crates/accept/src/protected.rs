//! Sources that must not be locked out: the pod itself and its node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::gateways::gateways;

/// Addresses with places of their own; always includes loopback.
#[derive(Clone, Debug, Default)]
pub struct Protected(Arc<[IpAddr]>);

impl Protected {
    /// `node` is the node's address (`status.hostIP`), if known. The gateway of the default route
    /// is protected as well: with a bridge or a point-to-point link, the node connects to its pods
    /// from that address.
    pub fn of_node(node: Option<IpAddr>) -> Self {
        Self::of(node.into_iter().chain(gateways()))
    }

    pub fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses = addresses.into_iter().map(|ip| ip.to_canonical());
        Self(addresses.collect())
    }

    pub fn contains(&self, source: IpAddr) -> bool {
        source == IpAddr::V4(Ipv4Addr::LOCALHOST)
            || source == IpAddr::V6(Ipv6Addr::LOCALHOST)
            || self.0.contains(&source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_node_are_protected() {
        let node = "192.0.2.7".parse().unwrap();
        let protected = Protected::of([node]);
        for (source, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("192.0.2.7", true),
            ("127.0.0.2", false),
            ("192.0.2.8", false),
        ] {
            assert_eq!(
                protected.contains(source.parse().unwrap()),
                expected,
                "{source}"
            );
        }
    }
}
