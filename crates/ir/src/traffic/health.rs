//! Active health checks.
//!
//! Source: Envoy, `config.core.v3.HealthCheck`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::{Authority, PathAndQuery};

/// How endpoints are asked whether they are healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChecks {
    /// When they are asked.
    pub timing: CheckTiming,
    /// Failed checks in a row after which an endpoint is unhealthy.
    pub unhealthy_threshold: NonZeroU32,
    /// Passed checks in a row after which it is healthy again.
    pub healthy_threshold: NonZeroU32,
    /// What they are asked.
    pub check: HealthCheck,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// A request.
    Http(HttpHealthCheck),
    /// A call of `grpc.health.v1.Health/Check` for this service.
    Grpc(Arc<str>),
    /// A connection.
    Tcp,
}

/// A GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpHealthCheck {
    /// Its path.
    pub path: PathAndQuery,
    /// Its host; `None`: that of the endpoint.
    pub host: Option<Authority>,
    /// The statuses of a healthy endpoint.
    pub statuses: Vec<StatusRange>,
}

impl HttpHealthCheck {
    /// Returns true if the status is one of a healthy endpoint.
    pub fn expects(&self, status: StatusCode) -> bool {
        let mut ranges = self.statuses.iter();
        ranges.any(|range| range.bounds().contains(&status.as_u16()))
    }
}

/// Statuses of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    start: u16,
    end: u16,
}

impl StatusRange {
    /// The statuses of success.
    pub const SUCCESS: Self = Self {
        start: 200,
        end: 299,
    };

    /// Returns `None` unless 200 <= start <= end <= 599.
    pub fn new(start: u32, end: u32) -> Option<Self> {
        let (start, end) = (u16::try_from(start).ok()?, u16::try_from(end).ok()?);
        let fits = 200 <= start && start <= end && end <= 599;
        fits.then_some(Self { start, end })
    }

    /// The statuses.
    pub fn bounds(self) -> RangeInclusive<u16> {
        self.start..=self.end
    }
}

/// When an endpoint is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckTiming {
    interval: Duration,
    timeout: Duration,
}

impl CheckTiming {
    /// The shortest time between two checks.
    pub const LEAST_INTERVAL: Duration = Duration::from_secs(1);
    /// The longest time between two checks.
    pub const MOST_INTERVAL: Duration = Duration::from_secs(3600);
    /// The shortest time that a check may take.
    pub const LEAST_TIMEOUT: Duration = Duration::from_millis(100);
    /// The longest time that a check may take.
    pub const MOST_TIMEOUT: Duration = Duration::from_secs(60);

    /// Returns `None` unless [`CheckTiming::LEAST_TIMEOUT`] <= timeout <= interval, at most
    /// [`CheckTiming::MOST_TIMEOUT`], and [`CheckTiming::LEAST_INTERVAL`] <= interval <=
    /// [`CheckTiming::MOST_INTERVAL`].
    pub fn new(interval: Duration, timeout: Duration) -> Option<Self> {
        let fits = (Self::LEAST_INTERVAL..=Self::MOST_INTERVAL).contains(&interval)
            && (Self::LEAST_TIMEOUT..=interval.min(Self::MOST_TIMEOUT)).contains(&timeout);
        fits.then_some(Self { interval, timeout })
    }

    /// The time between two checks of an endpoint.
    pub fn interval(self) -> Duration {
        self.interval
    }

    /// How long a check may take.
    pub fn timeout(self) -> Duration {
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_and_statuses_are_bounded() {
        let timing = |interval, timeout| {
            let millis = Duration::from_millis;
            CheckTiming::new(millis(interval), millis(timeout)).is_some()
        };
        for (interval, timeout, valid) in [
            (1_000, 1_000, true),
            (3_600_000, 100, true),
            (999, 100, false),
            (3_600_001, 100, false),
            (1_000, 99, false),
            (1_000, 1_001, false),
            (3_600_000, 60_000, true),
            (3_600_000, 60_001, false),
        ] {
            assert_eq!(timing(interval, timeout), valid, "{interval} {timeout}");
        }
        for (start, end, valid) in [
            (200, 599, true),
            (204, 204, true),
            (199, 200, false),
            (200, 600, false),
            (300, 299, false),
            (65_736, 65_736, false),
        ] {
            assert_eq!(StatusRange::new(start, end).is_some(), valid, "{start}");
        }
    }

    #[test]
    fn status_of_any_range_is_expected() {
        let check = HttpHealthCheck {
            path: PathAndQuery::from_static("/"),
            host: None,
            statuses: vec![StatusRange::SUCCESS, StatusRange::new(404, 404).unwrap()],
        };
        let expected = [200, 204, 299, 404];
        for status in [200, 204, 299, 300, 403, 404, 405, 503] {
            let code = StatusCode::from_u16(status).unwrap();
            assert_eq!(check.expects(code), expected.contains(&status), "{status}");
        }
    }
}
