//! Renders the redirect rules for `nft`. Pure.

use std::collections::BTreeSet;

use crate::settings::{PROXY_UID, Ports};

/// Which connections of a pod are redirected, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The user whose connections are not redirected: the proxy's.
    pub proxy_uid: u32,
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// Ports of the proxy that are reached directly (metrics, readiness).
    pub open_ports: Ports,
    pub exclude_outbound: Ports,
    pub exclude_inbound: Ports,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            proxy_uid: PROXY_UID as u32,
            outbound_port: 15001,
            inbound_port: 15006,
            open_ports: [15020, 15021].into_iter().collect(),
            exclude_outbound: Ports::default(),
            exclude_inbound: Ports::default(),
        }
    }
}

/// Renders the ruleset as one transaction: the table is declared (so that deleting it cannot fail),
/// deleted, and created again. One table of family `inet` is for IPv4 and IPv6.
///
/// - `outbound` redirects connections from the pod; those to the pod's own addresses go over `lo`
///   and are not redirected, nor are the proxy's.
/// - `inbound` redirects connections to the pod from outside. Those from the pod to itself traverse
///   this chain too, but NAT decides once for each connection, which it has in `outbound`. Packets
///   for an address that the pod does not have are not redirected: otherwise a neighbour on the
///   link could have the proxy connect to that address as this pod.
/// - The guards close ways around the proxy: loopback is not reached from outside, the redirect's
///   ports cannot be dialled (the proxy would connect to itself), and packets of no known
///   connection are dropped (they would not be translated back, so that the kernel resets a healthy
///   connection).
pub fn render(redirect: &Redirect) -> String {
    let Redirect {
        proxy_uid,
        outbound_port,
        inbound_port,
        ..
    } = redirect;
    let own = format!("{{ {outbound_port}, {inbound_port} }}");
    let skip_outbound = skip(redirect.exclude_outbound.iter());
    let skip_inbound = skip(
        redirect
            .open_ports
            .iter()
            .chain(redirect.exclude_inbound.iter()),
    );
    format!(
        r#"table inet weft
delete table inet weft
table inet weft {{
    chain guard_inbound {{
        type filter hook prerouting priority -150; policy accept;
        iifname != "lo" meta l4proto tcp ip daddr 127.0.0.0/8 drop
        iifname != "lo" meta l4proto tcp ip6 daddr ::1 drop
        iifname != "lo" meta l4proto tcp ct state invalid drop
        iifname != "lo" ct state new tcp dport {own} reject with tcp reset
    }}
    chain guard_outbound {{
        type filter hook output priority 0; policy accept;
        meta skuid != {proxy_uid} ct state new ct status & dnat == 0 oifname "lo" tcp dport {own} reject with tcp reset
    }}
    chain outbound {{
        type nat hook output priority -100; policy accept;
        meta skuid {proxy_uid} return
        oifname "lo" return
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
{skip_outbound}        meta l4proto tcp redirect to :{outbound_port}
    }}
    chain inbound {{
        type nat hook prerouting priority -100; policy accept;
        fib daddr type != local return
{skip_inbound}        meta l4proto tcp redirect to :{inbound_port}
    }}
}}
"#
    )
}

/// Renders a rule that excludes the ports; empty if there are none.
fn skip(ports: impl Iterator<Item = u16>) -> String {
    let ports: BTreeSet<u16> = ports.collect();
    if ports.is_empty() {
        return String::new();
    }
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("        tcp dport {{ {} }} return\n", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_pod() {
        insta::assert_snapshot!(render(&Redirect::default()));
    }

    #[test]
    fn excluded_ports_are_left_alone() {
        let redirect = Redirect {
            exclude_outbound: "3306,25".parse().unwrap(),
            exclude_inbound: "9000,15020".parse().unwrap(),
            ..Redirect::default()
        };
        let text = render(&redirect);
        assert!(
            text.contains(
                "tcp dport { 25, 3306 } return\n        meta l4proto tcp redirect to :15001"
            ),
            "{text}"
        );
        assert!(
            text.contains("tcp dport { 9000, 15020, 15021 } return\n        meta l4proto tcp redirect to :15006"),
            "{text}"
        );
    }
}
