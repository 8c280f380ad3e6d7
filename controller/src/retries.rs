//! What could not be done, and when it is tried again: after a second, then after twice as long each time, up to a minute.
//!
//! Decides only: who tries says what came of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure ...
const WAIT: Duration = Duration::from_secs(1);
/// ... and after many.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Doublings that matter.
const MANY: u32 = 6;

/// What failed the last time it was tried.
#[derive(Debug)]
pub(crate) struct Retries<K>(HashMap<K, Failed>);

#[derive(Debug)]
struct Failed {
    again: Instant,
    tries: u32,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Retries<K> {
    /// How long it waits from now on.
    pub(crate) fn failed(&mut self, key: K, now: Instant) -> Duration {
        let known = self.0.entry(key).or_insert(Failed {
            again: now,
            tries: 0,
        });
        let wait = WAIT
            .saturating_mul(1 << known.tries.min(MANY))
            .min(LONGEST_WAIT);
        known.again = now + wait;
        known.tries += 1;
        wait
    }

    pub(crate) fn succeeded(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Whether it may be tried: what never failed may.
    pub(crate) fn is_due(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_none_or(|known| known.again <= now)
    }

    /// When the first of them is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().map(|known| known.again).min()
    }

    /// Forgets what nobody asks for any longer.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| wanted(key));
    }
}

/// Without a time, for ever.
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
    async fn what_fails_waits_twice_as_long_each_time_up_to_a_minute() {
        let mut retries = Retries::default();
        let waits: Vec<u64> = (0..8)
            .map(|_| retries.failed("a", Instant::now()).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.next(), Some(Instant::now() + LONGEST_WAIT));
        retries.succeeded(&"a");
        assert_eq!(retries.next(), None);
        assert_eq!(retries.failed("a", Instant::now()), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_is_due_after_its_wait_and_others_at_once() {
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
