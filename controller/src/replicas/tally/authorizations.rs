//! The state of authorization policies at the proxies that enforce them: those whose current
//! resource `authorization` contains the policy.
//!
//! Every proxy counts: one that lags or rejects lets through what the policy is to stop.

use std::collections::{BTreeMap, HashMap};

use weft_ir::{Authorizations, PolicyId, ResourceKey};

use super::{Proxies, ProxyState, worse};
use crate::encoder::Source;
use crate::replicas::report::{self, Count, MAX_NAMES, RouteCounts};
use crate::snapshot::Snapshot;
use crate::subscribe::Registry;

/// Returns the counts of this replica's proxies, for its report.
pub(super) fn counts(snapshot: &Snapshot, registry: &Registry) -> BTreeMap<String, RouteCounts> {
    let counts = own_counts(snapshot, registry);
    let counted = snapshot.authorizations.iter().filter_map(|status| {
        let counts = RouteCounts {
            generation: status.generation,
            parents: vec![counts.get(&status.id)?.clone()],
        };
        Some((report::policy_key(&status.id), counts))
    });
    counted.collect()
}

pub(crate) fn own_counts(snapshot: &Snapshot, registry: &Registry) -> HashMap<PolicyId, Count> {
    let encoder = &snapshot.encoder;
    let mut worst = Proxies::new();
    // A pod can have a second stream for a moment.
    for (pod, held) in registry.states(&ResourceKey::Authorization) {
        let Some(resource) = encoder.authorization(&pod.namespace, &pod.name) else {
            continue;
        };
        let state = ProxyState::of(held.as_ref(), resource.version);
        worse(&mut worst, &pod, &state);
    }
    let mut counts: HashMap<PolicyId, Count> = HashMap::new();
    for (pod, state) in &worst {
        let Some(enforced) = encoder.mesh().authorizations(&pod.namespace, &pod.name) else {
            continue;
        };
        for policy in policies(enforced) {
            let count = match counts.get_mut(policy) {
                Some(count) => count,
                None => counts.entry(policy.clone()).or_default(),
            };
            count.total += 1;
            match state {
                ProxyState::InForce => count.ready += 1,
                ProxyState::Behind => {}
                ProxyState::Refused => {
                    count.refusing += 1;
                    if count.refused_by.len() < MAX_NAMES {
                        count.refused_by.push(pod.to_string());
                    }
                }
                ProxyState::Withheld(reason) => count.withheld = Some(reason.clone()),
            }
        }
    }
    counts
}

/// Returns the policies that a proxy enforces, each once.
fn policies(of: &Authorizations) -> Vec<&PolicyId> {
    let mut ids: Vec<&PolicyId> = of.policy_ids().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
