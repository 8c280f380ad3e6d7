//! The gateways of a network namespace: where a node is that connects to its pods by a bridge or a
//! point-to-point link.

use std::net::{IpAddr, Ipv6Addr};

const V4: &str = "/proc/net/route";
const V6: &str = "/proc/net/ipv6_route";

/// Returns the gateways of the default routes, and those of other routes that are link-local. Reads
/// the tables of the kernel; a table that cannot be read has no gateways.
pub fn gateways() -> Vec<IpAddr> {
    parse(&read(V4), &read(V6))
}

/// Empty if the kernel does not support the protocol.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Parses the tables of Linux (proc(5)). Lines that are not understood are left out.
fn parse(v4: &str, v6: &str) -> Vec<IpAddr> {
    let v4 = v4.lines().filter_map(parse_v4);
    v4.chain(v6.lines().filter_map(parse_v6)).collect()
}

fn parse_v4(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (to, by) = (fields.next()?, fields.next()?);
    // In native byte order.
    let by = u32::from_str_radix(by, 16).ok().filter(|by| *by != 0)?;
    let gateway = std::net::Ipv4Addr::from(by.to_ne_bytes());
    (to == "00000000" || gateway.is_link_local()).then_some(gateway.into())
}

fn parse_v6(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_ascii_whitespace();
    let (to, length) = (fields.next()?, fields.next()?);
    let by = u128::from_str_radix(fields.nth(2)?, 16).ok()?;
    let gateway = Ipv6Addr::from(by);
    let is_default = length == "00" && to.bytes().all(|digit| digit == b'0');
    let is_gateway = by != 0 && (is_default || gateway.is_unicast_link_local());
    is_gateway.then(|| IpAddr::from(gateway).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001F40A\t0201F40A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t0101F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";
    const BRIDGE_V6: &str = "\
fd000010024400010000000000000000 40 00000000000000000000000000000000 00 fd000010024400010000000000000002 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000010024400010000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";
    /// Link-local gateways: of the default route, and of another one.
    const LINK_LOCAL: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101FEA9\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000F40A\t0201FEA9\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
";
    const LINK_LOCAL_V6: &str = "\
fd000010024400010000000000000000 40 00000000000000000000000000000000 00 fe80000000000000ecee eeeefffeeeee 00000400 00000001 00000000 00000003     eth0
fd000010024400010000000000000000 40 00000000000000000000000000000000 00 fe80000000000000eceeeeeefffeeeee 00000400 00000001 00000000 00000003     eth0
";

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn gateways_of_default_routes_and_link_local_ones_are_parsed() {
        for (v4, v6, expected) in [
            (BRIDGE, BRIDGE_V6, &["10.244.1.1", "fd00:10:244:1::1"][..]),
            (
                LINK_LOCAL,
                LINK_LOCAL_V6,
                &["169.254.1.1", "169.254.1.2", "fe80::ecee:eeee:fffe:eeee"],
            ),
            (BRIDGE, "", &["10.244.1.1"]),
            ("", BRIDGE_V6, &["fd00:10:244:1::1"]),
        ] {
            assert_eq!(parse(v4, v6), addresses(expected));
        }
    }

    #[test]
    fn garbage_has_no_gateways() {
        for text in [
            "",
            "broken\n\n00 00\n",
            "eth0 00000000",
            "eth0 00000000 gateway",
            "eth0 00000000 0101F40A0101F40A",
            "00 00 00 00 zz",
            "00000000000000000000000000000000 00 0 0 fd0000100244000100000000000000010",
            "\u{0}\u{fffd} \u{e9}\t\t\t",
        ] {
            assert_eq!(parse(text, text), [] as [IpAddr; 0], "{text:?}");
        }
    }
}
