//! Lines of log that strangers cause: a few at once, then one in a while, with the number of those left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets a line pass now and then.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    every: Duration,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// When the first of the missing lines comes back.
    since: Instant,
    held_back: u64,
}

impl Throttle {
    /// `burst` lines at once, and one more each time that `every` has passed.
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

    /// Whether to log now; then, how many like it were not logged since the last that was.
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
    fn a_burst_passes_then_one_in_a_while_with_the_number_left_out() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let begun = Instant::now();
        let at = |seconds| throttle.pass_at(begun + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(1), at(2)], [Some(0), Some(0), None, None]);
        assert_eq!([at(11), at(12), at(19)], [Some(2), None, None]);
        // After a quiet time the whole burst is there again, and no more.
        assert_eq!([at(900), at(900), at(900)], [Some(2), Some(0), None]);
    }
}
