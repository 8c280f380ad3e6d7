//! The redirect rules as text for `nft`. Pure: the same choice gives the same text.

use std::collections::BTreeSet;

use crate::settings::{PROXY_UID, Ports};

/// Where a pod's connections go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The user whose connections are left alone.
    pub proxy_uid: u32,
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// Ports of the proxy itself that others may reach (metrics, readiness).
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

/// The whole ruleset as one transaction: the table is named (so that deleting it cannot fail), deleted, and made
/// anew. One table of family `inet` holds for IPv4 and IPv6.
///
/// - `outbound` sees connections made in the pod; those to the pod's own addresses leave over `lo` and are left
///   alone, as are the proxy's.
/// - `inbound` sees connections made to the pod from outside it. Those that the pod makes to itself pass here too,
///   but NAT decides once a connection, and for them it has decided in `outbound`. What is for an address that the pod
///   does not have is left to the kernel, which forwards or drops it: the proxy would connect to it as this pod, for any
///   neighbour on the link that sends such a packet here.
/// - The guards close the ways around: nobody outside reaches the pod's loopback, the redirect's own ports cannot be
///   dialled (the proxy would dial itself), and packets that belong to no known connection are dropped (they would miss
///   the translation back and make the kernel reset a healthy connection).
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

/// A line that leaves the ports alone, or nothing when there are none.
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
