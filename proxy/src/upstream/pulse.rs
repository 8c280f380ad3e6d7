//! Whether an endpoint gives any sign of life while it is waited for: the proxy of its pod, which answers for every port.
//!
//! HTTP/2 between proxies asks a silent peer soon (`PING_EVERY`), so whoever is there is heard from often while a request
//! is open, however long its application takes. Nothing is closed here: a silent endpoint gets no new requests where
//! there are others, and is as good as before when it is heard again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::streams::Told;

/// Twice the time after which a peer is asked: its answer has half of this.
const SILENCE: Duration = Duration::from_secs(1);

/// What is known of one pod. All times in nanoseconds on the clock of [`super::Shared::now`].
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests on HTTP/2 that are open.
    open: AtomicU32,
    /// When the first of those was begun.
    since: AtomicU64,
    /// When something came from the endpoint last.
    heard: AtomicU64,
}

impl Pulse {
    pub(super) fn begin(&self, now: u64) {
        if self.open.fetch_add(1, Relaxed) == 0 {
            self.since.store(now, Relaxed);
        }
    }

    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(super) fn heard(&self, now: u64) {
        self.heard.store(now, Relaxed);
    }

    /// It is waited for, and nothing has come for too long.
    pub(super) fn silent(&self, now: u64) -> bool {
        if self.open.load(Relaxed) == 0 {
            return false;
        }
        let last = self.heard.load(Relaxed).max(self.since.load(Relaxed));
        now.saturating_sub(last) > SILENCE.as_nanos() as u64
    }
}

/// The stream, with reads that are signs of life. `started`: when the clock was zero.
pub(super) fn heard<S>(
    stream: S,
    pulse: Arc<Pulse>,
    started: Instant,
) -> Told<S, impl FnMut(usize) + Send + Unpin> {
    Told::new(stream, move |_| {
        pulse.heard(started.elapsed().as_nanos() as u64);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn silent_is_who_is_waited_for_and_not_heard() {
        let pulse = Pulse::default();
        assert!(!pulse.silent(100 * SECOND), "nobody waits");
        pulse.begin(100 * SECOND);
        assert!(!pulse.silent(101 * SECOND), "the wait began now");
        assert!(pulse.silent(101 * SECOND + 1));
        // One more request does not make it live.
        pulse.begin(102 * SECOND);
        assert!(pulse.silent(102 * SECOND));
        pulse.heard(103 * SECOND);
        assert!(!pulse.silent(104 * SECOND));
        assert!(pulse.silent(104 * SECOND + 1));
        pulse.end();
        assert!(pulse.silent(105 * SECOND), "another is open");
        pulse.end();
        assert!(!pulse.silent(105 * SECOND));
    }
}
