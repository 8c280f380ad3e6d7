//! Which endpoint of a set a client is to be given, where its Service says so.
//!
//! Source: `hints` of EndpointSlices (KEP-2433, KEP-3015) as kube-proxy reads them (`pkg/proxy/topology.go`), and
//! `sessionAffinity` of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// What a Service says of the choice among its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Whose clients an endpoint is for, by its address; absent: its EndpointSlice does not say.
    pub hints: BTreeMap<SocketAddr, Hints>,
    /// A client keeps its endpoint until it has not used it for this long.
    pub affinity: Option<Duration>,
}

/// The clients that an endpoint is for: those of these nodes, and of these zones. Not both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub nodes: BTreeSet<String>,
    pub zones: BTreeSet<String>,
}

/// Where a client runs; empty: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    pub zone: String,
}

impl Choice {
    /// For each endpoint whether it is for clients of the place; empty where the hints do not decide. They do where each
    /// endpoint has some and at least one is for the place: nodes before zones.
    pub fn near(
        &self,
        endpoints: impl Iterator<Item = SocketAddr> + Clone,
        place: &Place,
    ) -> Vec<bool> {
        let hinted = |of: fn(&Hints) -> &BTreeSet<String>, own: &str| {
            let near = endpoints.clone().map(|address| {
                let names = of(self.hints.get(&address)?);
                (!names.is_empty()).then(|| names.contains(own))
            });
            let near: Option<Vec<bool>> = near.collect();
            near.filter(|near| near.contains(&true))
        };
        if self.hints.is_empty() {
            return Vec::new();
        }
        hinted(|hints| &hints.nodes, &place.node)
            .or_else(|| hinted(|hints| &hints.zones, &place.zone))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints with the names of their nodes and zones.
    fn near(hints: &[(&str, &str)], node: &str, zone: &str) -> Vec<bool> {
        let address = |at: usize| SocketAddr::from(([10, 0, 0, 1], 80 + at as u16));
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let mut choice = Choice::default();
        for (at, (nodes, zones)) in hints.iter().enumerate() {
            let (nodes, zones): (BTreeSet<_>, BTreeSet<_>) = (names(nodes), names(zones));
            if !nodes.is_empty() || !zones.is_empty() {
                choice.hints.insert(address(at), Hints { nodes, zones });
            }
        }
        let place = Place {
            node: node.to_owned(),
            zone: zone.to_owned(),
        };
        choice.near((0..hints.len()).map(address), &place)
    }

    #[test]
    fn hints_decide_as_with_kube_proxy() {
        for (hints, node, zone, expected) in [
            // Nothing said, or not by all.
            (&[("", ""), ("", "")][..], "n1", "a", &[][..]),
            (&[("", "a"), ("", "")], "n1", "a", &[]),
            // For the zone; for several zones; for none of this place.
            (&[("", "a"), ("", "b")], "n1", "a", &[true, false]),
            (&[("", "a b"), ("", "b")], "n1", "b", &[true, true]),
            (&[("", "a"), ("", "b")], "n1", "c", &[]),
            // For the node, before the zone; else for the zone.
            (&[("n1", "a"), ("n2", "a")], "n1", "a", &[true, false]),
            (&[("n1", "a"), ("n2", "a")], "n3", "a", &[true, true]),
            (&[("n1", "a"), ("", "b")], "n1", "b", &[false, true]),
            // A place that is not known.
            (&[("n1", "a"), ("n2", "b")], "", "", &[]),
            (&[], "n1", "a", &[]),
        ] {
            assert_eq!(near(hints, node, zone), expected, "{hints:?} {node} {zone}");
        }
    }
}
