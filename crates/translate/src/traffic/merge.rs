//! The effective policy of a port, from the policies of the levels above it. Pure.

use weft_ir::{RetryBudget, TrafficPolicy};

/// Which of two levels decides on a section that both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    /// The nearer one.
    Defaults,
    /// The farther one, and before all defaults.
    Overrides,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Directive {
    pub(super) strength: Strength,
    pub(super) sections: TrafficPolicy,
}

/// Merges the directives of all levels, the farthest first. Each section is taken from one of them.
/// `constraint`: the budget of a direct policy of the Service, which comes before all defaults.
pub(super) fn effective(
    levels: &[Option<&Directive>],
    constraint: Option<&RetryBudget>,
) -> TrafficPolicy {
    let outlier_detection = section(levels, |of| of.outlier_detection.as_ref());
    let retry_budget = override_of(levels, |of| of.retry_budget.as_ref())
        .or(constraint)
        .or_else(|| default_of(levels, |of| of.retry_budget.as_ref()));
    let limits = section(levels, |of| of.limits.as_ref());
    let load_balancing = section(levels, |of| of.load_balancing.as_ref());
    let health_checks = section(levels, |of| of.health_checks.as_ref());
    let timeouts = section(levels, |of| of.timeouts.as_ref());
    let retries = section(levels, |of| of.retries.as_ref());
    TrafficPolicy {
        outlier_detection: outlier_detection.cloned(),
        retry_budget: retry_budget.copied(),
        limits: limits.cloned(),
        load_balancing: load_balancing.cloned(),
        health_checks: health_checks.cloned(),
        timeouts: timeouts.copied(),
        retries: retries.cloned(),
    }
}

fn section<'l, T>(
    levels: &[Option<&'l Directive>],
    get: impl Fn(&'l TrafficPolicy) -> Option<&'l T>,
) -> Option<&'l T> {
    override_of(levels, &get).or_else(|| default_of(levels, &get))
}

/// Returns the section of the farthest level that has it in `overrides`.
fn override_of<'l, T>(
    levels: &[Option<&'l Directive>],
    get: impl Fn(&'l TrafficPolicy) -> Option<&'l T>,
) -> Option<&'l T> {
    let mut farthest_first = levels.iter();
    farthest_first.find_map(|level| get(sections(level, Strength::Overrides)?))
}

/// Returns the section of the nearest level that has it in `defaults`.
fn default_of<'l, T>(
    levels: &[Option<&'l Directive>],
    get: impl Fn(&'l TrafficPolicy) -> Option<&'l T>,
) -> Option<&'l T> {
    let mut nearest_first = levels.iter().rev();
    nearest_first.find_map(|level| get(sections(level, Strength::Defaults)?))
}

fn sections<'l>(level: &Option<&'l Directive>, of: Strength) -> Option<&'l TrafficPolicy> {
    let directive = level.filter(|directive| directive.strength == of)?;
    Some(&directive.sections)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use weft_ir::{EjectionTime, OutlierDetection, Percent};

    use super::Strength::{Defaults, Overrides};
    use super::*;

    fn directive(strength: Strength, failures: u32) -> Directive {
        let second = Duration::from_secs(1);
        Directive {
            strength,
            sections: TrafficPolicy {
                outlier_detection: NonZeroU32::new(failures).map(|failures| OutlierDetection {
                    consecutive_5xx: Some(failures),
                    consecutive_gateway_errors: None,
                    ejection_time: EjectionTime::new(second, second).unwrap(),
                    max_ejection_percent: Percent::default(),
                    panic_threshold: Percent::default(),
                }),
                ..TrafficPolicy::default()
            },
        }
    }

    #[test]
    fn nearest_default_and_farthest_override_decide() {
        for (levels, expected) in [
            (&[None, None][..], None),
            (&[Some((Defaults, 1)), None], Some(1)),
            (&[Some((Defaults, 1)), Some((Defaults, 2))], Some(2)),
            // A policy without the section is no level of it.
            (&[Some((Defaults, 1)), Some((Defaults, 0))], Some(1)),
            (&[Some((Overrides, 0)), Some((Defaults, 2))], Some(2)),
            (&[Some((Overrides, 1)), Some((Defaults, 2))], Some(1)),
            (&[Some((Overrides, 1)), Some((Overrides, 2))], Some(1)),
            (
                &[
                    Some((Defaults, 1)),
                    Some((Overrides, 2)),
                    Some((Defaults, 3)),
                ],
                Some(2),
            ),
        ] {
            let directives: Vec<Option<Directive>> = levels
                .iter()
                .map(|level| level.map(|(strength, failures)| directive(strength, failures)))
                .collect();
            let levels: Vec<Option<&Directive>> = directives.iter().map(Option::as_ref).collect();
            let merged = effective(&levels, None).outlier_detection;
            let failures = merged
                .and_then(|of| of.consecutive_5xx)
                .map(NonZeroU32::get);
            assert_eq!(failures, expected, "{directives:?}");
        }
    }
}
