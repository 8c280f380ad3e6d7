//! How clients use the endpoints of a Service port, beyond its own fields.
//!
//! Source: the effective TrafficPolicy of the port. The meaning of outlier detection is that of
//! Envoy's `config.cluster.v3.OutlierDetection`, with the success of a single request in place of
//! an interval.

use std::num::NonZeroU32;
use std::time::Duration;

/// The sections of the effective TrafficPolicy of a Service port; absent: what clients do without a
/// policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// When an endpoint that answers is ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// How many requests are sent again.
    pub retry_budget: Option<RetryBudget>,
}

impl TrafficPolicy {
    /// Returns true if no section is set.
    pub fn is_empty(&self) -> bool {
        let Self {
            outlier_detection,
            retry_budget,
        } = self;
        outlier_detection.is_none() && retry_budget.is_none()
    }
}

/// Outlier detection: an endpoint that fails several requests in a row gets none for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Responses in a row with a 5xx status, connections that fail and streams that break off
    /// included; `None`: they are not counted.
    pub consecutive_5xx: Option<NonZeroU32>,
    /// Those of them with status 502, 503 or 504, or without a response.
    pub consecutive_gateway_errors: Option<NonZeroU32>,
    /// How long an endpoint is ejected.
    pub ejection_time: EjectionTime,
    /// The share of the endpoints that are ejected at a time; one may always be.
    pub max_ejection_percent: Percent,
    /// If fewer endpoints than this share are healthy, all are used.
    pub panic_threshold: Percent,
}

/// How many requests a proxy sends again, for whatever reason: a share of the requests of the last
/// seconds, and a rate that needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// The share of the requests.
    pub percent: Percent,
    /// Retries per second beside it.
    pub min_per_second: u16,
}

impl Default for RetryBudget {
    /// Returns the budget without a policy.
    fn default() -> Self {
        Self {
            percent: Percent(20),
            min_per_second: 10,
        }
    }
}

/// A share in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Returns `None` above 100.
    pub fn new(percent: u32) -> Option<Self> {
        let percent = u8::try_from(percent).ok()?;
        (percent <= 100).then_some(Self(percent))
    }

    /// Returns the number, 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Returns the share of a count, rounded down.
    pub fn of(self, count: usize) -> usize {
        count.saturating_mul(usize::from(self.0)) / 100
    }
}

/// How long an endpoint is ejected: `base`, doubled with each further ejection, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionTime {
    base: Duration,
    max: Duration,
}

impl EjectionTime {
    /// The shortest time.
    pub const LEAST: Duration = Duration::from_millis(100);
    /// The longest time.
    pub const MOST: Duration = Duration::from_secs(3600);

    /// Returns `None` unless [`EjectionTime::LEAST`] <= base <= max <= [`EjectionTime::MOST`].
    pub fn new(base: Duration, max: Duration) -> Option<Self> {
        let fits = Self::LEAST <= base && base <= max && max <= Self::MOST;
        fits.then_some(Self { base, max })
    }

    /// The time of the first ejection.
    pub fn base(self) -> Duration {
        self.base
    }

    /// The longest time.
    pub fn max(self) -> Duration {
        self.max
    }

    /// Returns the time of an ejection that follows `before` others without a success in between.
    pub fn after(self, before: u32) -> Duration {
        let factor = 1_u32.checked_shl(before).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejection_time_is_bounded_and_doubles_up_to_its_maximum() {
        let seconds = Duration::from_secs;
        let time = EjectionTime::new(seconds(30), seconds(300)).unwrap();
        let times: Vec<u64> = [0, 1, 2, 3, 4, 31, 32, u32::MAX]
            .map(|before| time.after(before).as_secs())
            .to_vec();
        assert_eq!(times, [30, 60, 120, 240, 300, 300, 300, 300]);
        for (base, max) in [(0, 1_000), (99, 1_000), (2_000, 1_000), (1_000, 3_600_001)] {
            let millis = Duration::from_millis;
            assert_eq!(
                EjectionTime::new(millis(base), millis(max)),
                None,
                "{base} {max}"
            );
        }
    }

    #[test]
    fn percent_is_at_most_100() {
        assert_eq!(Percent::new(101), None);
        assert_eq!(Percent::new(u32::MAX), None);
        assert_eq!(Percent::new(50).map(|half| half.of(3)), Some(1));
        assert_eq!(Percent::new(100).map(|all| all.of(3)), Some(3));
    }
}
