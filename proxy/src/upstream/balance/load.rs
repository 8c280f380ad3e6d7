//! What is known of an endpoint's load: the requests in flight, and the peak-sensitive moving
//! average of its latency.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::{AtomicTimestamp, Timestamp};

/// Time after which an old latency counts for about a third.
const DECAY: Duration = Duration::from_secs(10);
/// Taken for the latency of an endpoint that is busy with its first requests, in nanoseconds.
const UNKNOWN_LATENCY: f64 = 1_000_000.0;

/// What is known of one endpoint's latency. All updates are relaxed: a lost one costs a little
/// accuracy.
#[derive(Debug, Default)]
pub struct Load {
    /// Bits of an `f64` in nanoseconds; 0 is unknown.
    average: AtomicU64,
    /// When `average` was updated.
    updated: AtomicTimestamp,
    active: AtomicU32,
}

impl Load {
    pub fn begin(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// Ends what [`Load::begin`] began, without a latency to learn from.
    pub fn end(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// Learns a latency: a higher one counts at once, a lower one by and by.
    pub fn observe(&self, latency: Duration, now: Timestamp) {
        let latency = (latency.as_nanos() as f64).max(1.0);
        let old = f64::from_bits(self.average.load(Relaxed));
        let average = if latency >= old {
            latency
        } else {
            latency + (old - latency) * self.remaining(now)
        };
        self.average.store(average.to_bits(), Relaxed);
        self.updated.store(now);
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Expected wait, in nanoseconds: the latency times the requests in flight.
    pub fn expected_wait(&self, now: Timestamp) -> f64 {
        let average = f64::from_bits(self.average.load(Relaxed));
        let active = self.active();
        let average = match (average == 0.0, active) {
            // Tried before all others, but by one request: how fast it is has to be learned.
            (true, 0) => return 0.0,
            (true, _) => UNKNOWN_LATENCY,
            (false, _) => average * self.remaining(now),
        };
        average.max(1.0) * f64::from(active + 1)
    }

    fn remaining(&self, now: Timestamp) -> f64 {
        let age = now.since(self.updated.load());
        (-age.div_duration_f64(DECAY)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(of: u64) -> Timestamp {
        Timestamp::START + Duration::from_secs(of)
    }

    #[test]
    fn latency_peak_raises_cost_at_once_and_decays() {
        let load = Load::default();
        load.observe(Duration::from_millis(1), second(1));
        load.observe(Duration::from_millis(500), second(1));
        let peak = load.expected_wait(second(1));
        assert!(peak > 4e8);
        load.observe(Duration::from_millis(1), second(2));
        assert!(load.expected_wait(second(2)) > 3e8);
        assert!(load.expected_wait(second(60)) < 1e7);
    }
}
