//! The state of traffic policies at the proxies that use them: those that hold the endpoints of a
//! Service port at which the policy applies.

use std::collections::{BTreeMap, HashMap};

use weft_translate::TrafficPolicyId;

use super::{Proxies, ProxyState, count, worse};
use crate::replicas::report::{self, Count, RouteCounts};
use crate::snapshot::Snapshot;
use crate::subscribe::Registry;

/// Returns the counts of this replica's proxies, for its report.
pub(super) fn counts(snapshot: &Snapshot, registry: &Registry) -> BTreeMap<String, RouteCounts> {
    let counts = own_counts(snapshot, registry);
    let counted = snapshot.traffic.iter().filter_map(|status| {
        let counts = RouteCounts {
            generation: status.generation,
            parents: vec![counts.get(&status.id)?.clone()],
        };
        Some((report::traffic_key(&status.id), counts))
    });
    counted.collect()
}

pub(crate) fn own_counts(
    snapshot: &Snapshot,
    registry: &Registry,
) -> HashMap<TrafficPolicyId, Count> {
    let (encoder, mesh) = (&snapshot.encoder, snapshot.encoder.mesh());
    let counted = mesh.has_traffic_policies();
    registry.count_endpoints(counted);
    if !counted {
        return HashMap::new();
    }
    let mut by_policy: HashMap<&TrafficPolicyId, Proxies> = HashMap::new();
    let applies = |id: &_| !mesh.traffic_policies(id).is_empty();
    for (id, holders) in registry.endpoints(applies) {
        let versions: Vec<u64> = encoder.versions(&id).collect();
        for (pod, held) in holders {
            // Clients on different nodes, and Gateways, can have different sets.
            let states = versions
                .iter()
                .map(|now| ProxyState::of(held.as_ref(), *now));
            let state = states.min().unwrap_or(ProxyState::Behind);
            for policy in mesh.traffic_policies(&id) {
                worse(by_policy.entry(policy).or_default(), &pod, &state);
            }
        }
    }
    let counts = by_policy.into_iter();
    counts
        .map(|(policy, proxies)| (policy.clone(), count(&proxies)))
        .collect()
}
