//! Times that threads share: a clock that starts with its owner, and points in time on it.
//!
//! A [`Timestamp`] fits an atomic, which an [`Instant`] does not.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// A monotonic clock. Only timestamps of one clock can be compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts a clock.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the present.
    pub(crate) fn now(self) -> Timestamp {
        Timestamp::START + self.0.elapsed()
    }

    /// Returns the timestamp of an instant; the start if it was before.
    pub(crate) fn at(self, instant: std::time::Instant) -> Timestamp {
        Timestamp::START + instant.saturating_duration_since(self.0.into_std())
    }

    /// Returns a point in time as timers take it.
    pub(crate) fn instant(self, time: Timestamp) -> Instant {
        self.0 + time.since(Timestamp::START)
    }
}

/// A point in time on a [`Clock`], to the nanosecond. The largest is 584 years after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of the clock.
    pub const START: Self = Self(0);

    /// Returns the time from `earlier` until now; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

/// A [`Timestamp`] that several threads set, all of them relaxed. It is at the start at first.
#[derive(Debug, Default)]
pub(crate) struct AtomicTimestamp(AtomicU64);

impl AtomicTimestamp {
    pub(crate) fn new(time: Timestamp) -> Self {
        Self(AtomicU64::new(time.0))
    }

    pub(crate) fn load(&self) -> Timestamp {
        Timestamp(self.0.load(Relaxed))
    }

    pub(crate) fn store(&self, time: Timestamp) {
        self.0.store(time.0, Relaxed);
    }

    /// Sets the time unless it is later.
    pub(crate) fn extend(&self, to: Timestamp) {
        self.0.fetch_max(to.0, Relaxed);
    }

    /// Sets the time if it is still `from`. Returns true if it was.
    pub(crate) fn replace(&self, from: Timestamp, to: Timestamp) -> bool {
        let exchanged = self.0.compare_exchange(from.0, to.0, Relaxed, Relaxed);
        exchanged.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timestamps_are_as_far_apart_as_the_clock_went_on() {
        let clock = Clock::start();
        let (then, second) = (clock.now(), Duration::from_secs(1));
        tokio::time::advance(second).await;
        assert_eq!(clock.now().since(then), second);
        assert_eq!(then.since(clock.now()), Duration::ZERO);
        assert_eq!(then + second, clock.now());
        assert!(then + Duration::MAX > clock.now());
    }

    #[test]
    fn one_of_two_replaces_a_timestamp() {
        let later = Timestamp::START + Duration::from_secs(1);
        let shared = AtomicTimestamp::default();
        assert!(shared.replace(Timestamp::START, later));
        assert!(!shared.replace(Timestamp::START, later));
        assert_eq!(shared.load(), later);
    }
}
