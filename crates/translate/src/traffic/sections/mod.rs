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
    let sections = TrafficPolicy {
        outlier_detection: section(outlier_detection, at, "outlierDetection", outliers::read)?,
        retry_budget: section(retry_budget, at, "retryBudget", retry_budget::read)?,
        limits: section(limits, at, "limits", limits::read)?,
        load_balancing: section(load_balancing, at, "loadBalancing", balancing::read)?,
        health_checks: section(health_checks, at, "healthChecks", health::read)?,
        timeouts: section(timeouts, at, "timeouts", timeouts::read)?,
        retries: section(retries, at, "retries", retries::read)?,
    };
    match sections.is_empty() {
        true => Err(format!("{at}: at least one section is required")),
        false => Ok(Directive { strength, sections }),
    }
}

/// Reads a section, if there is one, as `read` does with the section and its path.
fn section<S, T>(
    of: &Option<S>,
    at: &str,
    name: &str,
    read: fn(&S, &str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    of.as_ref()
        .map(|of| read(of, &format!("{at}.{name}")))
        .transpose()
}
