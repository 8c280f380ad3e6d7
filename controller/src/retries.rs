//! Backoff by key: a failed key is due again after a second, then after twice as long each time, up
//! to a minute.
//!
//! Does no I/O: the caller reports the outcome of each attempt.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The wait after the first failure.
const WAIT: Duration = Duration::from_secs(1);
/// The maximum wait.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The number of doublings to the maximum.
const MAX_DOUBLINGS: u32 = 6;

/// The keys whose last attempt failed.
#[derive(Debug)]
pub(crate) struct Retries<K>(HashMap<K, Failed>);

#[derive(Debug)]
struct Failed {
    again: Instant,
    attempts: u32,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Retries<K> {
    /// Records a failure; returns how long the key waits.
    pub(crate) fn failed(&mut self, key: K, now: Instant) -> Duration {
        let known = self.0.entry(key).or_insert(Failed {
            again: now,
            attempts: 0,
        });
        let wait = WAIT
            .saturating_mul(1 << known.attempts.min(MAX_DOUBLINGS))
            .min(MAX_WAIT);
        known.again = now + wait;
        known.attempts += 1;
        wait
    }

    pub(crate) fn succeeded(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Returns true if the key may be tried: its wait is over, or it has not failed.
    pub(crate) fn is_due(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_none_or(|known| known.again <= now)
    }

    /// Returns when the first failed key is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().map(|known| known.again).min()
    }

    /// Removes keys that are not wanted any more.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| wanted(key));
    }
}

/// Sleeps until `at`; without a time, for ever.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_doubles_up_to_a_minute() {
        let mut retries = Retries::default();
        let waits: Vec<u64> = (0..8)
            .map(|_| retries.failed("a", Instant::now()).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.next(), Some(Instant::now() + MAX_WAIT));
        retries.succeeded(&"a");
        assert_eq!(retries.next(), None);
        assert_eq!(retries.failed("a", Instant::now()), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_key_is_due_after_its_wait() {
        let mut retries = Retries::default();
        retries.failed("a", Instant::now());
        tokio::time::advance(WAIT / 2).await;
        retries.failed("b", Instant::now());
        let due = |retries: &Retries<_>, key| retries.is_due(&key, Instant::now());
        assert!(!due(&retries, "a") && !due(&retries, "b") && due(&retries, "c"));
        sleep_until(retries.next()).await;
        assert!(due(&retries, "a") && !due(&retries, "b"));
        retries.retain(|key| *key == "a");
        assert!(due(&retries, "b"));
    }
}
