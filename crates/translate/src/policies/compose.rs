//! What one target enforces, from the policies that apply to it. Equal results are the same `Arc`,
//! so that they are encoded and compared once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use weft_ir::{
    Authorization, AuthorizationPolicy, Authorizations, DefaultAuthorization, PolicyEffect,
};

use super::policy::Policy;
use crate::limits::{PROXY_POLICY_BYTES, PROXY_POLICY_COMPILED, Size};

/// The ports of a pod that a policy applies to; empty means all.
pub(super) type Ports = Vec<u16>;

/// Makes policies of targets, and shares them.
#[derive(Debug, Default)]
pub(super) struct Composer {
    /// An entry keeps its policy, so that no other policy can have its address.
    policies: HashMap<VariantKey, (Arc<Policy>, Weak<AuthorizationPolicy>)>,
    /// By default and the addresses of policies, which live as long as the result.
    workloads: HashMap<(DefaultAuthorization, Vec<usize>), Weak<Authorizations>>,
}

/// The address of a policy, the ports that it applies to, and whether it has room.
type VariantKey = (usize, Ports, bool);

/// The capacity of one proxy.
#[derive(Debug, Default)]
pub(super) struct Room(Size);

impl Room {
    /// Returns true if there is room for the policy.
    fn take(&mut self, size: Size) -> bool {
        let now = Size {
            bytes: self.0.bytes + size.bytes,
            compiled: self.0.compiled + size.compiled,
        };
        let fits = now.bytes <= PROXY_POLICY_BYTES && now.compiled <= PROXY_POLICY_COMPILED;
        if fits {
            self.0 = now;
        }
        fits
    }
}

impl Composer {
    /// Returns the policy for a target. A policy that has no room is closed there, and `crowded`
    /// gets it; one without effect is left out.
    pub(super) fn policy(
        &mut self,
        policy: &Arc<Policy>,
        ports: Ports,
        room: &mut Room,
        crowded: &mut Vec<Arc<Policy>>,
    ) -> Option<Arc<AuthorizationPolicy>> {
        let effect = policy.effect.as_ref()?;
        let fits = room.take(policy.size);
        if !fits {
            crowded.push(Arc::clone(policy));
        }
        let key = (Arc::as_ptr(policy).addr(), ports, fits);
        let known = self.policies.get(&key);
        if let Some(known) = known.and_then(|(_, known)| known.upgrade()) {
            return Some(known);
        }
        let made = Arc::new(AuthorizationPolicy {
            id: policy.id.clone(),
            ports: key.1.clone(),
            effect: match fits {
                true => effect.clone(),
                false => PolicyEffect::Invalid,
            },
        });
        let entry = (Arc::clone(policy), Arc::downgrade(&made));
        self.policies.insert(key, entry);
        Some(made)
    }

    /// Returns what a sidecar enforces.
    pub(super) fn workload(
        &mut self,
        default: DefaultAuthorization,
        policies: Vec<Arc<AuthorizationPolicy>>,
    ) -> Arc<Authorizations> {
        let addresses = policies.iter().map(|of| Arc::as_ptr(of).addr()).collect();
        let key = (default, addresses);
        if let Some(known) = self.workloads.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(Authorizations {
            workload: Authorization { policies, default },
            ..Authorizations::default()
        });
        self.workloads.insert(key, Arc::downgrade(&made));
        made
    }

    /// Removes what no target uses.
    pub(super) fn prune(&mut self) {
        self.workloads.retain(|_, of| of.upgrade().is_some());
        self.policies.retain(|_, (_, of)| of.upgrade().is_some());
    }
}
