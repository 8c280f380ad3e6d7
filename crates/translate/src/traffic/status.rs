//! The conditions of traffic policies.

use std::sync::Arc;

use super::fits::{Refusal, opaque};
use super::policy::{Policy, TargetSpec};
use super::winners::{Place, Winners, place};
use crate::cluster::services::{ServiceAddressing, ServiceInfo, Services};
use crate::conditions::condition;
use crate::objects::ParentRef;
use crate::output::{AncestorStatus, Condition, TrafficPolicyStatus};

/// Returns the status of a policy: one entry for each distinct target.
pub(super) fn status(
    policy: &Arc<Policy>,
    winners: &Winners<'_>,
    services: &Services,
) -> TrafficPolicyStatus {
    let mut ancestors: Vec<(&ParentRef, Condition)> = Vec::new();
    for target in policy.targets.iter().take(16) {
        if ancestors
            .iter()
            .all(|(known, _)| **known != target.ancestor)
        {
            let accepted = accepted(policy, target, winners, services);
            ancestors.push((&target.ancestor, accepted));
        }
    }
    TrafficPolicyStatus {
        id: policy.id.clone(),
        generation: policy.generation,
        ancestors: ancestors
            .into_iter()
            .map(|(ancestor, accepted)| AncestorStatus {
                ancestor: ancestor.clone(),
                conditions: vec![accepted],
            })
            .collect(),
    }
}

fn accepted(
    policy: &Arc<Policy>,
    target: &TargetSpec,
    winners: &Winners<'_>,
    services: &Services,
) -> Condition {
    match outcome(policy, target, winners, services) {
        Ok(note) => {
            let message = format!("the policy is in effect{note}");
            condition("Accepted", true, "Accepted", message)
        }
        Err((reason, message)) => condition("Accepted", false, reason, message),
    }
}

fn outcome(
    policy: &Arc<Policy>,
    target: &TargetSpec,
    winners: &Winners<'_>,
    services: &Services,
) -> Result<String, Refusal> {
    policy.directive.as_ref().map_err(|why| {
        let why = format!("the policy is invalid, and changes nothing: {why}");
        ("Invalid", why)
    })?;
    let scope = target.scope.as_ref();
    let scope = scope.map_err(|why| ("Invalid", why.clone()))?;
    let place = place(policy, scope, services)?;
    match winners.by_place.get(&place) {
        Some(winner) if !Arc::ptr_eq(winner, policy) => {
            let why = format!(
                "{} has the same target and is older; a target has one policy",
                winner.id
            );
            Err(("Conflicted", why))
        }
        _ => Ok(match &place {
            Place::Service(id) => {
                let service = services.get(id);
                service.map_or_else(String::new, |of| note(policy, of))
            }
            _ => String::new(),
        }),
    }
}

/// Returns what is to be known about a Service as a whole.
fn note(policy: &Policy, service: &ServiceInfo) -> String {
    let mut note = String::new();
    if let Some(opaque) = opaque(&service.ports) {
        let effect = match &policy.of_connections()[..] {
            [] => "it has no".to_owned(),
            [field] => format!("only {field} has"),
            fields => format!("only {} have", fields.join(" and ")),
        };
        note += &format!("; {effect} effect on {opaque}");
    }
    if service.addressing == ServiceAddressing::Headless {
        note += "; the Service is headless, so the policy applies only where a route or a Gateway \
                 sends to it: other clients choose a pod themselves";
        if policy.limits_servers() {
            note += ", and limits.server applies to them";
        }
    }
    note
}
