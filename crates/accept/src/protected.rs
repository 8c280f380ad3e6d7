//! Sources that must not be locked out: the pod itself and its node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Addresses with places of their own; always includes loopback.
#[derive(Clone, Debug, Default)]
pub struct Protected(Arc<[IpAddr]>);

impl Protected {
    /// `node` is the node's address (`status.hostIP`), if known. The gateway of the default route
    /// is protected as well: with a bridge or a point-to-point link, the node connects to its pods
    /// from that address.
    pub fn of_node(node: Option<IpAddr>) -> Self {
        let gateways = gateways(&read("/proc/net/route"), &read("/proc/net/ipv6_route"));
        Self::of(node.into_iter().chain(gateways))
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

/// Empty if the kernel does not support the protocol.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Returns the gateways of default routes, from the tables of Linux (proc(5)).
fn gateways(v4: &str, v6: &str) -> Vec<IpAddr> {
    let v4 = v4.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (to, by) = (fields.next()?, fields.next()?);
        // In native byte order.
        let by = u32::from_str_radix(by, 16).ok().filter(|by| *by != 0)?;
        (to == "00000000").then(|| IpAddr::from(by.to_ne_bytes()))
    });
    let v6 = v6.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (to, length) = (fields.next()?, fields.next()?);
        let by = u128::from_str_radix(fields.nth(2)?, 16).ok()?;
        let default = length == "00" && to.bytes().all(|digit| digit == b'0');
        (default && by != 0).then(|| IpAddr::from(Ipv6Addr::from(by)))
    });
    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001F40A\t0101F40A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t0101F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";
    const V6: &str = "\
fd000010024400010000000000000000 40 00000000000000000000000000000000 00 fd000010024400010000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000010024400010000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[test]
    fn gateways_of_default_routes_are_parsed() {
        let expected: [IpAddr; 2] = [
            "10.244.1.1".parse().unwrap(),
            "fd00:10:244:1::1".parse().unwrap(),
        ];
        assert_eq!(gateways(V4, V6), expected);
        assert_eq!(gateways("", "broken\n\n00 00\n"), [] as [IpAddr; 0]);
    }

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
