//! Outlier detection.
//!
//! Source: Envoy, `config.cluster.v3.OutlierDetection`, with the success of a single request in
//! place of an interval.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::percent::Percent;

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
}
