//! Constraints of a Service on the choice of an endpoint for a client.
//!
//! Source: `hints` of EndpointSlices (KEP-2433, KEP-3015) as kube-proxy interprets them
//! (`pkg/proxy/topology.go`), and `sessionAffinity` of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::traffic::ZonePreference;

/// Constraints on the choice among the endpoints of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Topology hints by address of the endpoint; absent if its EndpointSlice has none. With
    /// [`ZonePreference::Prefer`] and [`ZonePreference::Require`] the zones that it is in.
    pub hints: BTreeMap<SocketAddr, Hints>,
    /// Session affinity: a client keeps its endpoint until it has not used it for this long.
    pub affinity: Option<Duration>,
}

/// Topology hints: the endpoint is for clients on these nodes and in these zones. At least one of
/// them is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Names of nodes.
    pub nodes: BTreeSet<String>,
    /// Names of zones.
    pub zones: BTreeSet<String>,
}

/// Node and zone of a client; empty if not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// Name of the node.
    pub node: String,
    /// Name of the zone.
    pub zone: String,
}

impl Choice {
    /// Returns for each endpoint whether clients at the locality prefer it, or an empty list if
    /// they prefer none.
    pub fn preferred_by(
        &self,
        endpoints: impl Iterator<Item = SocketAddr> + Clone,
        locality: &Locality,
        zones: ZonePreference,
    ) -> Vec<bool> {
        match zones {
            ZonePreference::Service => self.hinted_for(endpoints, locality),
            ZonePreference::Disabled => Vec::new(),
            ZonePreference::Prefer | ZonePreference::Require => {
                let is_near = |address| {
                    let hints: Option<&Hints> = self.hints.get(&address);
                    hints.is_some_and(|of| of.zones.contains(&locality.zone))
                };
                endpoints.map(is_near).collect()
            }
        }
    }

    /// Returns for each endpoint whether it is for clients at the locality, or an empty list if the
    /// hints do not apply. They apply if every endpoint has hints and at least one is for the
    /// locality; nodes take precedence over zones.
    pub fn hinted_for(
        &self,
        endpoints: impl Iterator<Item = SocketAddr> + Clone,
        locality: &Locality,
    ) -> Vec<bool> {
        let by = |of: fn(&Hints) -> &BTreeSet<String>, own: &str| {
            let hinted = endpoints.clone().map(|address| {
                let names = of(self.hints.get(&address)?);
                (!names.is_empty()).then(|| names.contains(own))
            });
            let hinted: Option<Vec<bool>> = hinted.collect();
            hinted.filter(|hinted| hinted.contains(&true))
        };
        if self.hints.is_empty() {
            return Vec::new();
        }
        by(|hints| &hints.nodes, &locality.node)
            .or_else(|| by(|hints| &hints.zones, &locality.zone))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints with the names of their nodes and zones.
    fn hinted(hints: &[(&str, &str)], node: &str, zone: &str) -> Vec<bool> {
        let address = |at: usize| SocketAddr::from(([10, 0, 0, 1], 80 + at as u16));
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let mut choice = Choice::default();
        for (at, (nodes, zones)) in hints.iter().enumerate() {
            let (nodes, zones): (BTreeSet<_>, BTreeSet<_>) = (names(nodes), names(zones));
            if !nodes.is_empty() || !zones.is_empty() {
                choice.hints.insert(address(at), Hints { nodes, zones });
            }
        }
        let locality = Locality {
            node: node.to_owned(),
            zone: zone.to_owned(),
        };
        choice.hinted_for((0..hints.len()).map(address), &locality)
    }

    #[test]
    fn hints_apply_as_in_kube_proxy() {
        for (hints, node, zone, expected) in [
            // Without hints, or not on all endpoints.
            (&[("", ""), ("", "")][..], "n1", "a", &[][..]),
            (&[("", "a"), ("", "")], "n1", "a", &[]),
            // For the zone; for several zones; for none of the client's.
            (&[("", "a"), ("", "b")], "n1", "a", &[true, false]),
            (&[("", "a b"), ("", "b")], "n1", "b", &[true, true]),
            (&[("", "a"), ("", "b")], "n1", "c", &[]),
            // For the node, which takes precedence over the zone; else for the zone.
            (&[("n1", "a"), ("n2", "a")], "n1", "a", &[true, false]),
            (&[("n1", "a"), ("n2", "a")], "n3", "a", &[true, true]),
            (&[("n1", "a"), ("", "b")], "n1", "b", &[false, true]),
            // A locality that is not known.
            (&[("n1", "a"), ("n2", "b")], "", "", &[]),
            (&[], "n1", "a", &[]),
        ] {
            assert_eq!(
                hinted(hints, node, zone),
                expected,
                "{hints:?} {node} {zone}"
            );
        }
    }
}
