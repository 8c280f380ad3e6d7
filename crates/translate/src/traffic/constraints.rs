//! Retry constraints of Services: XBackendTrafficPolicies.
//!
//! Source: GEP-3388; GEP-713 (direct policies): of two with the same target the older one applies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use weft_ir::{Percent, RetryBudget, ServiceId};

use super::fits::{Refusal, fits};
use super::sections::interval;
use crate::cluster::services::Services;
use crate::conditions::condition;
use crate::objects::{
    BackendTrafficPolicy, BackendTrafficPolicySpec, BudgetDetails, Lenient, ParentRef,
    PolicyTarget, RequestRate, RetryConstraint,
};
use crate::output::{AncestorStatus, Condition, PolicyStatus};
use crate::routes::duration;

/// Number of targets of a policy, and of ancestors of its status.
const MAX_TARGETS: usize = 16;

/// A policy.
#[derive(Debug)]
pub(super) struct Constraint {
    namespace: String,
    name: String,
    generation: i64,
    creation: String,
    targets: Vec<Target>,
    /// `None`: it has no retryConstraint.
    budget: Result<Option<RetryBudget>, String>,
    /// It has a sessionPersistence, which is not supported.
    persists_sessions: bool,
}

/// A target, and the object that the status reports it for.
#[derive(Debug)]
struct Target {
    ancestor: ParentRef,
    /// Or why it cannot be a target.
    service: Result<ServiceId, String>,
}

impl Constraint {
    /// Returns `None` if the policy has no targets that could be read.
    pub(super) fn new(of: &BackendTrafficPolicy) -> Option<Self> {
        let BackendTrafficPolicy { metadata, spec } = of;
        let BackendTrafficPolicySpec {
            target_refs,
            retry_constraint,
            session_persistence,
        } = spec.as_ref().ok()?;
        let namespace = &metadata.namespace;
        let targets: Vec<Target> = target_refs
            .iter()
            .filter_map(|of| of.as_ref().ok())
            .take(MAX_TARGETS)
            .map(|of| target(of, namespace))
            .collect();
        let budget = retry_constraint.as_ref().map(read).transpose();
        (!targets.is_empty()).then(|| Self {
            namespace: namespace.clone(),
            name: metadata.name.clone(),
            generation: metadata.generation,
            creation: metadata.creation_timestamp.clone(),
            targets,
            budget,
            persists_sessions: session_persistence.is_some(),
        })
    }

    /// The oldest first, then by name.
    pub(super) fn order(&self) -> (&str, &str, &str) {
        (&self.creation, &self.namespace, &self.name)
    }

    fn budget(&self) -> Option<&RetryBudget> {
        self.budget.as_ref().ok()?.as_ref()
    }
}

fn target(of: &PolicyTarget, namespace: &str) -> Target {
    let PolicyTarget {
        group,
        kind,
        name,
        section_name: _,
    } = of;
    let service = match (&**group, &**kind) {
        ("", "Service") => Ok(ServiceId::new(namespace, &**name)),
        _ => Err(format!(
            "{kind} {name} of group {group:?} cannot be a target; targets are Services"
        )),
    };
    Target {
        ancestor: ParentRef::to(group, kind, Some(namespace), name),
        service,
    }
}

fn read(of: &Lenient<RetryConstraint>) -> Result<RetryBudget, String> {
    let at = "retryConstraint";
    let of = of.as_ref().map_err(|why| format!("{at}: {why}"))?;
    let RetryConstraint {
        budget,
        min_retry_rate,
    } = of;
    let BudgetDetails {
        percent,
        interval: length,
    } = budget.clone().unwrap_or_default();
    let RequestRate {
        count,
        interval: per,
    } = min_retry_rate.clone().unwrap_or_default();
    let percent = percent.unwrap_or(20);
    let share = u32::try_from(percent).ok().and_then(Percent::new);
    let share =
        share.ok_or_else(|| format!("{at}.budget.percent: {percent} is not from 0 to 100"))?;
    let length = time(length, Duration::from_secs(10), "retryConstraint.budget")?;
    let interval = interval(length, "retryConstraint.budget.interval")?;
    let count = count.unwrap_or(10);
    let count = u32::try_from(count)
        .ok()
        .filter(|count| (1..=1_000_000).contains(count))
        .ok_or_else(|| format!("{at}.minRetryRate.count: {count} is not from 1 to 1000000"))?;
    let per = time(per, Duration::from_secs(1), "retryConstraint.minRetryRate")?;
    if per.is_zero() || per > Duration::from_secs(3600) {
        return Err(format!(
            "{at}.minRetryRate.interval: {per:?} is not above 0 and at most 3600s"
        ));
    }
    Ok(RetryBudget {
        percent: share,
        min_retries: interval.times(count, per),
        interval,
        answers_503: true,
    })
}

fn time(text: Option<String>, without: Duration, at: &str) -> Result<Duration, String> {
    let Some(text) = text else {
        return Ok(without);
    };
    let why = || format!("{at}.interval: {text:?} is not a duration such as \"10s\"");
    duration(&text).ok_or_else(why)
}

/// The constraint of each Service: of several the oldest one that is valid.
#[derive(Default)]
pub(super) struct Constraints<'c>(HashMap<ServiceId, &'c Arc<Constraint>>);

impl<'c> Constraints<'c> {
    /// Expects the oldest first.
    pub(super) fn new(all: &'c [Arc<Constraint>]) -> Self {
        let mut by_service = HashMap::new();
        for constraint in all.iter().filter(|of| of.budget().is_some()) {
            for service in constraint
                .targets
                .iter()
                .filter_map(|of| of.service.as_ref().ok())
            {
                by_service.entry(service.clone()).or_insert(constraint);
            }
        }
        Self(by_service)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the budget of a Service.
    pub(super) fn of(&self, service: &ServiceId) -> Option<&'c RetryBudget> {
        self.0.get(service)?.budget()
    }

    /// Returns the status of a policy: one entry for each distinct target.
    pub(super) fn status(&self, of: &Arc<Constraint>, services: &Services) -> PolicyStatus {
        let mut ancestors: Vec<AncestorStatus> = Vec::new();
        for target in &of.targets {
            if ancestors
                .iter()
                .all(|known| known.ancestor != target.ancestor)
            {
                ancestors.push(AncestorStatus {
                    ancestor: target.ancestor.clone(),
                    conditions: vec![self.accepted(of, target, services)],
                });
            }
        }
        PolicyStatus {
            namespace: of.namespace.clone(),
            name: of.name.clone(),
            generation: of.generation,
            ancestors,
        }
    }

    fn accepted(&self, of: &Arc<Constraint>, target: &Target, services: &Services) -> Condition {
        match self.outcome(of, target, services) {
            Err((reason, why)) => condition("Accepted", false, reason, why),
            Ok(()) => {
                let mut message = "the policy is in effect".to_owned();
                if of.persists_sessions {
                    message += "; unsupported and ignored: sessionPersistence";
                }
                condition("Accepted", true, "Accepted", message)
            }
        }
    }

    fn outcome(
        &self,
        of: &Arc<Constraint>,
        target: &Target,
        services: &Services,
    ) -> Result<(), Refusal> {
        let invalid = |why: &str| {
            let why = format!("the policy is invalid, and changes nothing: {why}");
            ("Invalid", why)
        };
        let budget = of.budget.as_ref().map_err(|why| invalid(why))?;
        if budget.is_none() {
            return Err(invalid(match of.persists_sessions {
                true => "sessionPersistence is not supported, and there is no retryConstraint",
                false => "there is no retryConstraint",
            }));
        }
        let id = target.service.as_ref();
        let id = id.map_err(|why| ("Invalid", why.clone()))?;
        let Some(service) = services.get(id) else {
            return Err(("TargetNotFound", format!("Service {id} does not exist")));
        };
        if let Some(why) = fits(service, &service.ports, false) {
            return Err(("Invalid", why));
        }
        match self.0.get(id) {
            Some(winner) if !Arc::ptr_eq(winner, of) => Err((
                "Conflicted",
                format!(
                    "XBackendTrafficPolicy {}/{} has the same target and is older; a target has \
                     one policy",
                    winner.namespace, winner.name
                ),
            )),
            _ => Ok(()),
        }
    }
}
