//! Rate limit for log lines that untrusted clients can cause: a burst, then one per interval, with
//! the number of suppressed lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A rate limit for log lines.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    every: Duration,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// Start of the current refill interval.
    since: Instant,
    held_back: u64,
}

impl Throttle {
    /// Allows `burst` lines at once, and one more for each interval `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            bucket: Mutex::new(Bucket {
                left: burst,
                since: Instant::now(),
                held_back: 0,
            }),
        }
    }

    /// Returns the number of suppressed lines if a line may be logged now.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = now.saturating_duration_since(bucket.since);
        let back = waited.as_nanos() / self.every.as_nanos().max(1);
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        if bucket.left.saturating_add(back) >= self.burst {
            bucket.left = self.burst;
            bucket.since = now;
        } else {
            bucket.left += back;
            bucket.since += self.every * back;
        }
        if bucket.left == 0 {
            bucket.held_back += 1;
            return None;
        }
        bucket.left -= 1;
        Some(std::mem::take(&mut bucket.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_passes_then_one_line_per_interval_with_the_suppressed_count() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let begun = Instant::now();
        let at = |seconds| throttle.pass_at(begun + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(1), at(2)], [Some(0), Some(0), None, None]);
        assert_eq!([at(11), at(12), at(19)], [Some(2), None, None]);
        // After an idle time the whole burst is available again, and no more.
        assert_eq!([at(900), at(900), at(900)], [Some(2), Some(0), None]);
    }
}
