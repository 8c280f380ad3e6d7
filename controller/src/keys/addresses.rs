//! Which addresses keys are fetched from. Whoever writes a policy chooses the host: nothing is
//! fetched from this machine, its link, or the metadata services of clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Returns true if keys may be fetched from the address. `denied`: networks that nothing is sent
/// to.
pub(super) fn is_allowed(address: IpAddr, denied: &[IpNet]) -> bool {
    let address = address.to_canonical();
    if denied.iter().any(|network| network.contains(&address)) {
        return false;
    }
    match address {
        IpAddr::V4(of) => is_allowed_v4(of),
        IpAddr::V6(of) => {
            // NAT64 leads to the IPv4 address at its end (RFC 6052).
            let embedded = match of.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                    Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
                }
                _ => None,
            };
            is_allowed_v6(of) && embedded.is_none_or(|of| is_allowed(of, denied))
        }
    }
}

fn is_allowed_v4(of: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is this network (RFC 6890).
    !(of.is_loopback()
        || of.is_link_local()
        || of.is_multicast()
        || of.is_broadcast()
        || of.octets()[0] == 0)
}

fn is_allowed_v6(of: Ipv6Addr) -> bool {
    // IPv4-compatible addresses (::/96) hold the unspecified and the loopback address.
    let [a, b, c, d, e, f, _, _] = of.segments();
    let compatible = [a, b, c, d, e, f] == [0; 6];
    !(compatible || of.is_multicast() || of.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use weft_translate::EndpointRules;

    use super::*;

    #[test]
    fn nothing_is_fetched_from_this_machine_or_its_link() {
        let denied = EndpointRules::default().denied;
        for (text, allowed) in [
            ("10.96.0.1", true),
            ("192.168.1.1", true),
            ("203.0.113.7", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
            ("64:ff9b::203.0.113.7", true),
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("169.254.169.254", false),
            ("169.254.1.1", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b::127.0.0.1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("fd00:ec2::254", false),
        ] {
            assert_eq!(
                is_allowed(text.parse().unwrap(), &denied),
                allowed,
                "{text}"
            );
        }
    }
}
