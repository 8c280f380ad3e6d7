//! Whether anything comes from the proxy of a pod, which answers for every port, while requests
//! wait for it.
//!
//! HTTP/2 between proxies pings a silent peer soon (`PING_EVERY`), so a live one is heard from
//! often while a request is open, however long its application takes. Nothing is closed here: a
//! silent endpoint gets no new requests if there are others, and is healthy again once it is heard
//! from.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Twice the interval of pings: an answer has half of this.
const SILENCE: Duration = Duration::from_secs(1);

/// The liveness of one pod. All times in nanoseconds on the clock of
/// [`super::EndpointRegistry::now`].
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Open requests on HTTP/2.
    active: AtomicU32,
    /// When the first of them was begun.
    since: AtomicU64,
    /// When bytes came from the endpoint last.
    last_received: AtomicU64,
}

impl Liveness {
    pub(super) fn request_started(&self, now: u64) {
        if self.active.fetch_add(1, Relaxed) == 0 {
            self.since.store(now, Relaxed);
        }
    }

    pub(super) fn request_ended(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub(super) fn received(&self, now: u64) {
        self.last_received.store(now, Relaxed);
    }

    /// Returns true if requests are open and nothing has come for too long.
    pub(super) fn is_silent(&self, now: u64) -> bool {
        if self.active.load(Relaxed) == 0 {
            return false;
        }
        let last = self
            .last_received
            .load(Relaxed)
            .max(self.since.load(Relaxed));
        now.saturating_sub(last) > SILENCE.as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn endpoint_is_silent_when_requests_wait_without_bytes() {
        let liveness = Liveness::default();
        assert!(!liveness.is_silent(100 * SECOND), "no request waits");
        liveness.request_started(100 * SECOND);
        assert!(!liveness.is_silent(101 * SECOND), "the wait has just begun");
        assert!(liveness.is_silent(101 * SECOND + 1));
        // Another request does not restart the wait.
        liveness.request_started(102 * SECOND);
        assert!(liveness.is_silent(102 * SECOND));
        liveness.received(103 * SECOND);
        assert!(!liveness.is_silent(104 * SECOND));
        assert!(liveness.is_silent(104 * SECOND + 1));
        liveness.request_ended();
        assert!(liveness.is_silent(105 * SECOND), "another request waits");
        liveness.request_ended();
        assert!(!liveness.is_silent(105 * SECOND));
    }
}
