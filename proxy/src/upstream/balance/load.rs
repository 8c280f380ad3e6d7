//! What is known of an endpoint's load: the requests in flight, and the peak-sensitive moving
//! average of its latency.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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
    /// When `average` was updated, in nanoseconds on the caller's clock.
    updated: AtomicU64,
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

    /// Learns a latency: a higher one counts at once, a lower one by and by. `now` in nanoseconds.
    pub fn observe(&self, latency: Duration, now: u64) {
        let latency = (latency.as_nanos() as f64).max(1.0);
        let old = f64::from_bits(self.average.load(Relaxed));
        let average = if latency >= old {
            latency
        } else {
            latency + (old - latency) * self.remaining(now)
        };
        self.average.store(average.to_bits(), Relaxed);
        self.updated.store(now, Relaxed);
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Expected wait, in nanoseconds: the latency times the requests in flight.
    pub fn expected_wait(&self, now: u64) -> f64 {
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

    fn remaining(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.updated.load(Relaxed));
        (-(age as f64) / DECAY.as_nanos() as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn latency_peak_raises_cost_at_once_and_decays() {
        let load = Load::default();
        load.observe(Duration::from_millis(1), SECOND);
        load.observe(Duration::from_millis(500), SECOND);
        let peak = load.expected_wait(SECOND);
        assert!(peak > 4e8);
        load.observe(Duration::from_millis(1), 2 * SECOND);
        assert!(load.expected_wait(2 * SECOND) > 3e8);
        assert!(load.expected_wait(60 * SECOND) < 1e7);
    }
}
