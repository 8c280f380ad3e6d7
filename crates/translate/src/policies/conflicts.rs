//! AuthenticationPolicies with the same target: the oldest applies, then the first by name
//! (GEP-713). Policies with different targets that meet at one place all apply there.

use std::collections::HashMap;
use std::sync::Arc;

use weft_ir::{PolicyId, PolicyKind};

use super::policy::Policy;
use super::targets::Target;
use crate::memo::ByIdentity;

/// The policies that lost a target, as they were, with the winners of their targets and the result.
#[derive(Debug, Default)]
pub(super) struct Conflicts(Vec<(ByIdentity<Policy>, Winners, Arc<Policy>)>);

/// The positions of lost targets, and who has them.
type Winners = Vec<(usize, PolicyId)>;

impl Conflicts {
    /// Takes targets from policies that older ones have. `policies` are in their order of
    /// precedence. What loses the same targets as before is the same `Arc`.
    pub(super) fn resolve(&mut self, policies: &mut [Arc<Policy>]) {
        let before = std::mem::take(&mut self.0);
        let mut taken: HashMap<Arc<str>, Vec<(Target, PolicyId)>> = HashMap::new();
        for policy in policies {
            let Some(namespace) = &policy.id.namespace else {
                continue;
            };
            if policy.id.kind != PolicyKind::Authentication {
                continue;
            }
            let taken = taken.entry(Arc::clone(namespace)).or_default();
            let mut lost = Winners::new();
            for (place, of) in policy.targets.iter().enumerate() {
                match taken.iter().find(|(target, _)| *target == of.target) {
                    Some((_, winner)) if *winner == policy.id => {}
                    Some((_, winner)) => lost.push((place, winner.clone())),
                    None => taken.push((of.target.clone(), policy.id.clone())),
                }
            }
            if lost.is_empty() {
                continue;
            }
            let own = ByIdentity::of(policy);
            let known = before.iter().find(|(of, by, _)| *of == own && *by == lost);
            let result = match known {
                Some((_, _, result)) => Arc::clone(result),
                None => Arc::new(without(policy, &lost)),
            };
            *policy = Arc::clone(&result);
            self.0.push((own, lost, result));
        }
    }
}

fn without(policy: &Policy, lost: &Winners) -> Policy {
    let mut policy = Policy::clone(policy);
    for (place, winner) in lost {
        if let Some(of) = policy.targets.get_mut(*place) {
            of.target = Target::Conflicted(format!(
                "the older {winner} has the same target, and applies in place of this one"
            ));
        }
    }
    policy
}
