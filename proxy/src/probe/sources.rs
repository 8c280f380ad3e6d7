//! Where the kubelet's probes come from: the sources that a strict pod serves them to in plain
//! text.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use weft_ir::IpNet;

use crate::options::ProbeSources;

/// The shortest time between two reads of the routes.
const REFRESH: Duration = Duration::from_secs(1);
/// Refused sources that are told apart in the log.
const MAX_REPORTED: usize = 256;

/// The sources whose probes are served.
#[derive(Debug)]
pub struct AllowedSources {
    /// `None`: all sources.
    node: Option<NodeSources>,
}

/// What is known of the pod's node, beside its addresses.
#[derive(Debug)]
struct NodeSources {
    networks: Vec<IpNet>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of the pod's network namespace: a node with a bridge, or with a link to each pod, connects
    /// from there.
    gateways: Vec<IpAddr>,
    read: Instant,
    reported: HashSet<IpAddr>,
}

impl AllowedSources {
    /// `networks` are allowed beside the node.
    pub fn new(sources: ProbeSources, networks: Vec<IpNet>) -> Self {
        match sources {
            ProbeSources::Any => Self { node: None },
            ProbeSources::Node => Self::of_node(networks, weft_accept::gateways()),
        }
    }

    fn of_node(networks: Vec<IpNet>, gateways: Vec<IpAddr>) -> Self {
        let state = State {
            gateways,
            read: Instant::now(),
            reported: HashSet::new(),
        };
        let state = Mutex::new(state);
        Self {
            node: Some(NodeSources { networks, state }),
        }
    }

    /// Returns true if probes from `source` are served. `node`: the node's addresses; as long as
    /// they are not known, all sources are allowed.
    pub fn allow(&self, source: IpAddr, node: &[IpAddr]) -> bool {
        self.allow_by(source, node, weft_accept::gateways)
    }

    /// `read` returns the gateways as they are now: routes may come after the proxy has started.
    fn allow_by(
        &self,
        source: IpAddr,
        node: &[IpAddr],
        read: impl FnOnce() -> Vec<IpAddr>,
    ) -> bool {
        let Some(known) = &self.node else {
            return true;
        };
        let source = source.to_canonical();
        let is_source = |ip: &IpAddr| ip.to_canonical() == source;
        node.is_empty()
            || source == IpAddr::V4(Ipv4Addr::LOCALHOST)
            || source == IpAddr::V6(Ipv6Addr::LOCALHOST)
            || node.iter().any(is_source)
            || known
                .networks
                .iter()
                .any(|network| network.contains(&source))
            || known.is_gateway(source, read)
    }

    /// Returns true the first time that a refused source is reported.
    pub fn is_first_refusal(&self, source: IpAddr) -> bool {
        self.node.as_ref().is_some_and(|node| {
            let reported = &mut node.state().reported;
            reported.len() < MAX_REPORTED && reported.insert(source.to_canonical())
        })
    }
}

impl NodeSources {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gateway(&self, source: IpAddr, read: impl FnOnce() -> Vec<IpAddr>) -> bool {
        let mut state = self.state();
        if state.gateways.contains(&source) {
            return true;
        }
        if state.read.elapsed() < REFRESH {
            return false;
        }
        state.read = Instant::now();
        state.gateways = read();
        state.gateways.contains(&source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of_node(networks: &[&str], gateways: &[&str]) -> AllowedSources {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        AllowedSources::of_node(networks, gateways.iter().map(|text| ip(text)).collect())
    }

    #[test]
    fn node_its_gateways_loopback_and_listed_networks_are_allowed() {
        let sources = of_node(
            &["100.64.0.0/16", "fd00:7::/64"],
            &["10.244.1.1", "fe80::1"],
        );
        let node = [ip("192.0.2.7"), ip("2001:db8::7"), ip("::ffff:192.0.2.8")];
        for (source, allowed) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.8", true),
            ("192.0.2.9", false),
            ("2001:db8::7", true),
            ("2001:db8::8", false),
            ("10.244.1.1", true),
            ("::ffff:10.244.1.1", true),
            ("10.244.1.2", false),
            ("fe80::1", true),
            ("fe80::2", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::1", true),
            ("100.64.3.4", true),
            ("::ffff:100.64.3.4", true),
            ("100.65.0.1", false),
            ("fd00:7::9", true),
        ] {
            assert_eq!(sources.allow(ip(source), &node), allowed, "{source}");
        }
    }

    #[test]
    fn all_are_allowed_by_setting_and_while_node_is_unknown() {
        let other = ip("10.244.1.9");
        let node = [ip("192.0.2.7")];
        assert!(AllowedSources::new(ProbeSources::Any, Vec::new()).allow(other, &node));
        assert!(of_node(&["0.0.0.0/0"], &[]).allow(other, &node));
        assert!(of_node(&["::/0"], &[]).allow(ip("2001:db8::1"), &node));
        assert!(of_node(&[], &[]).allow(other, &[]));
        assert!(!of_node(&["::/0"], &[]).allow(other, &node));
    }

    #[tokio::test(start_paused = true)]
    async fn gateways_are_read_again_at_most_once_a_second() {
        let sources = of_node(&[], &[]);
        let (gateway, node) = (ip("10.244.1.1"), [ip("192.0.2.7")]);
        let unread = || -> Vec<IpAddr> { panic!("read within a second") };
        assert!(!sources.allow_by(gateway, &node, unread));
        tokio::time::advance(REFRESH).await;
        assert!(!sources.allow_by(ip("10.244.1.9"), &node, Vec::new));
        assert!(!sources.allow_by(gateway, &node, unread));
        tokio::time::advance(REFRESH).await;
        assert!(sources.allow_by(gateway, &node, || vec![gateway]));
        tokio::time::advance(REFRESH).await;
        // It is known: nothing is refused, and nothing is read.
        assert!(sources.allow_by(gateway, &node, unread));
    }

    #[test]
    fn source_is_reported_once_and_a_bounded_number_of_them() {
        let sources = of_node(&[], &[]);
        assert!(sources.is_first_refusal(ip("10.0.0.1")));
        assert!(!sources.is_first_refusal(ip("::ffff:10.0.0.1")));
        let others = (0..1000u32).map(|host| IpAddr::from(Ipv4Addr::from(0x0a01_0000 + host)));
        let reported = others.filter(|source| sources.is_first_refusal(*source));
        assert_eq!(reported.count(), MAX_REPORTED - 1);
    }
}
