//! At how many of the proxies connected here a route's current rules are in force.
//!
//! Affected are the proxies that hold a destination with rules of the route, and those of a Gateway
//! whose listeners have such rules.

pub(crate) mod authorizations;
mod destinations;
mod gateways;
pub(crate) mod traffic;

use std::collections::BTreeMap;

use weft_ir::RouteId;
use weft_translate::{Condition, Controller, ParentStatus, RouteStatus};

use super::report::{self, Count, RouteCounts};
use crate::snapshot::Snapshot;
use crate::subscribe::Registry;
use crate::subscribe::registry::Held;
use crate::watch::ObjectKey;

/// The state of a route at a proxy: the worst of its destinations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProxyState {
    InForce,
    Behind,
    Refused,
    /// A resource was too large to be sent, for this reason.
    Withheld(String),
}

impl ProxyState {
    /// Returns the state of a resource whose current version is `now`.
    fn of(held: Option<&Held>, now: u64) -> Self {
        match held {
            Some(Held::InForce(in_force)) if *in_force == now => Self::InForce,
            Some(Held::Refused(refused)) if *refused == now => Self::Refused,
            Some(Held::Withheld(withheld, reason)) if *withheld == now => {
                Self::Withheld(reason.clone())
            }
            _ => Self::Behind,
        }
    }
}

/// The proxies affected by a route at one place.
pub(crate) type Proxies = BTreeMap<ObjectKey, ProxyState>;

/// Returns the counts of this replica's proxies, for its report.
pub(crate) fn counts(snapshot: &Snapshot, registry: &Registry) -> BTreeMap<String, RouteCounts> {
    let counts = own_counts(snapshot, registry);
    let routes = snapshot.statuses.iter().zip(counts);
    routes
        .filter(|(_, counts)| counts.iter().flatten().any(|count| count.total > 0))
        .map(|(status, counts)| {
            let key = report::key(status.kind, &status.namespace, &status.name);
            let parents = counts.into_iter().map(Option::unwrap_or_default);
            let counts = RouteCounts {
                generation: status.generation,
                parents: parents.collect(),
            };
            (key, counts)
        })
        .chain(authorizations::counts(snapshot, registry))
        .chain(traffic::counts(snapshot, registry))
        .collect()
}

/// Counts this replica's proxies for each parent of each status; `None` if the parent did not
/// accept the route.
pub(crate) fn own_counts(snapshot: &Snapshot, registry: &Registry) -> Vec<Vec<Option<Count>>> {
    let destinations = destinations::tally(&snapshot.encoder, registry.destinations());
    let gateways = gateways::tally(&snapshot.encoder, registry);
    let of_status = |status: &RouteStatus| {
        let route = RouteId {
            kind: status.kind,
            namespace: status.namespace.as_str().into(),
            name: status.name.as_str().into(),
        };
        let of_parent = |parent: &ParentStatus| {
            let accepted = |one: &Condition| one.kind == "Accepted" && one.status;
            let proxies = match parent.controller {
                _ if !parent.conditions.iter().any(accepted) => return None,
                Controller::Mesh => destinations::proxies(&destinations, &route, parent),
                Controller::Gateway => gateways::proxies(&gateways, &route, parent),
            };
            Some(count(&proxies))
        };
        status.parents.iter().map(of_parent).collect()
    };
    snapshot
        .statuses
        .iter()
        .map(|status| of_status(status))
        .collect()
}

fn worse(proxies: &mut Proxies, pod: &ObjectKey, state: &ProxyState) {
    let known = proxies.entry(pod.clone()).or_insert(ProxyState::InForce);
    if *state > *known {
        *known = state.clone();
    }
}

/// Counts proxies by their state.
pub(crate) fn count(proxies: &Proxies) -> Count {
    let mut count = Count {
        total: proxies.len(),
        ..Count::default()
    };
    for state in proxies.values() {
        match state {
            ProxyState::InForce => count.ready += 1,
            ProxyState::Behind => {}
            ProxyState::Refused => count.refusing += 1,
            ProxyState::Withheld(reason) => count.withheld = Some(reason.clone()),
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_destination_decides() {
        let pod = ObjectKey::new("shop", "web-0");
        let mut all = Proxies::new();
        for state in [ProxyState::InForce, ProxyState::Refused, ProxyState::Behind] {
            worse(&mut all, &pod, &state);
        }
        assert_eq!(all[&pod], ProxyState::Refused);
    }
}
