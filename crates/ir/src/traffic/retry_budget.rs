//! The retry budget.

use std::time::Duration;

use crate::percent::Percent;

/// How many requests a proxy sends again, for whatever reason: a share of the requests of the last
/// interval, and a number that needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// The share of the requests.
    pub percent: Percent,
    /// Retries in an interval beside it.
    pub min_retries: u32,
    /// The time for which requests and retries count.
    pub interval: BudgetInterval,
    /// Beyond the budget the client gets 503, in place of the result at hand.
    pub answers_503: bool,
}

/// The time for which requests and retries count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BudgetInterval(Duration);

impl BudgetInterval {
    /// The shortest one.
    pub const LEAST: Duration = Duration::from_secs(1);
    /// The longest one.
    pub const MOST: Duration = Duration::from_secs(3600);

    /// Returns `None` unless [`BudgetInterval::LEAST`] <= interval <= [`BudgetInterval::MOST`].
    pub fn new(interval: Duration) -> Option<Self> {
        (Self::LEAST..=Self::MOST)
            .contains(&interval)
            .then_some(Self(interval))
    }

    /// Returns the time.
    pub fn get(self) -> Duration {
        self.0
    }

    /// Returns how often something happens in an interval that happens `count` times in `per`,
    /// rounded up.
    pub fn times(self, count: u32, per: Duration) -> u32 {
        let of_all = u128::from(count) * self.0.as_nanos();
        let times = of_all.div_ceil(per.as_nanos().max(1));
        u32::try_from(times).unwrap_or(u32::MAX)
    }
}

impl Default for BudgetInterval {
    /// Returns the interval without a policy.
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl RetryBudget {
    /// Returns a budget of the default interval, with a rate beside the share.
    pub fn per_second(percent: Percent, rate: u16) -> Self {
        let interval = BudgetInterval::default();
        Self {
            percent,
            min_retries: interval.times(rate.into(), Duration::from_secs(1)),
            interval,
            answers_503: false,
        }
    }
}

impl Default for RetryBudget {
    /// Returns the budget without a policy.
    fn default() -> Self {
        Self::per_second(Percent(20), 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_becomes_a_number_in_an_interval() {
        let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
        let interval = |of| BudgetInterval::new(of).unwrap();
        for (of, count, per, times) in [
            (seconds(10), 10, seconds(1), 100),
            (seconds(1), 3, seconds(10), 1),
            (seconds(60), 1, seconds(3600), 1),
            (seconds(3600), 2, seconds(1), 7_200),
            (seconds(10), 0, seconds(1), 0),
            (seconds(3600), 1_000_000, millis(1), u32::MAX),
            (seconds(1), 1, Duration::ZERO, 1_000_000_000),
        ] {
            assert_eq!(
                interval(of).times(count, per),
                times,
                "{of:?} {count} {per:?}"
            );
        }
        for of in [Duration::ZERO, millis(999), millis(3_600_001)] {
            assert_eq!(BudgetInterval::new(of), None, "{of:?}");
        }
        assert_eq!(RetryBudget::default().min_retries, 100);
    }
}
