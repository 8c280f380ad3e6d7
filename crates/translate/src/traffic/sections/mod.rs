//! The sections of a TrafficPolicy. What is invalid is named by its field.

mod balancing;
mod health;
mod limits;
mod outliers;
mod retries;
mod retry_budget;
mod timeouts;
mod values;

use weft_ir::TrafficPolicy;
use weft_policy::TrafficSections;

use super::merge::{Directive, Strength};
pub(super) use retry_budget::interval;

/// Reads the sections of a policy.
pub(super) fn directive(
    defaults: Option<&TrafficSections>,
    overrides: Option<&TrafficSections>,
) -> Result<Directive, String> {
    let (strength, at, of) = match (defaults, overrides) {
        (Some(of), None) => (Strength::Defaults, "defaults", of),
        (None, Some(of)) => (Strength::Overrides, "overrides", of),
        _ => return Err("spec: exactly one of defaults and overrides is required".to_owned()),
    };
    let TrafficSections {
        outlier_detection,
        retry_budget,
        limits,
        load_balancing,
        health_checks,
        timeouts,
        retries,
    } = of;
    let detection = outlier_detection.as_ref();
    let detection = detection.map(|of| outliers::read(of, &format!("{at}.outlierDetection")));
    let budget = retry_budget.as_ref();
    let budget = budget.map(|of| retry_budget::read(of, &format!("{at}.retryBudget")));
    let limits = limits.as_ref();
    let limits = limits.map(|of| limits::read(of, &format!("{at}.limits")));
    let balancing = load_balancing.as_ref();
    let balancing = balancing.map(|of| balancing::read(of, &format!("{at}.loadBalancing")));
    let checks = health_checks.as_ref();
    let checks = checks.map(|of| health::read(of, &format!("{at}.healthChecks")));
    let timeouts = timeouts.as_ref();
    let timeouts = timeouts.map(|of| timeouts::read(of, &format!("{at}.timeouts")));
    let retries = retries.as_ref();
    let retries = retries.map(|of| retries::read(of, &format!("{at}.retries")));
    let sections = TrafficPolicy {
        outlier_detection: detection.transpose()?,
        retry_budget: budget.transpose()?,
        limits: limits.transpose()?,
        load_balancing: balancing.transpose()?,
        health_checks: checks.transpose()?,
        timeouts: timeouts.transpose()?,
        retries: retries.transpose()?,
    };
    match sections.is_empty() {
        true => Err(format!("{at}: at least one section is required")),
        false => Ok(Directive { strength, sections }),
    }
}
