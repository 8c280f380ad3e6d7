//! Whether anything comes from the proxy of a pod, which answers for every port, while requests
//! wait for it.
//!
//! HTTP/2 between proxies pings a silent peer soon (`PING_EVERY`), so a live one is heard from
//! often while a request is open, however long its application takes. Nothing is closed here: a
//! silent endpoint gets no new requests if there are others, and is healthy again once it is heard
//! from.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::{AtomicTimestamp, Timestamp};

/// Twice the interval of pings: an answer has half of this.
const SILENCE: Duration = Duration::from_secs(1);

/// The liveness of one pod.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Open requests on HTTP/2.
    active: AtomicU32,
    /// When the first of them was begun.
    since: AtomicTimestamp,
    /// When bytes came from the endpoint last.
    last_received: AtomicTimestamp,
}

impl Liveness {
    pub(super) fn request_started(&self, now: Timestamp) {
        if self.active.fetch_add(1, Relaxed) == 0 {
            self.since.store(now);
        }
    }

    pub(super) fn request_ended(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub(super) fn received(&self, now: Timestamp) {
        self.last_received.store(now);
    }

    /// Returns true if requests are open and nothing has come for too long.
    pub(super) fn is_silent(&self, now: Timestamp) -> bool {
        if self.active.load(Relaxed) == 0 {
            return false;
        }
        let last = self.last_received.load().max(self.since.load());
        now.since(last) > SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(of: u64) -> Timestamp {
        Timestamp::START + Duration::from_secs(of)
    }

    #[test]
    fn endpoint_is_silent_when_requests_wait_without_bytes() {
        let liveness = Liveness::default();
        assert!(!liveness.is_silent(second(100)), "no request waits");
        liveness.request_started(second(100));
        assert!(!liveness.is_silent(second(101)), "the wait has just begun");
        assert!(liveness.is_silent(second(101) + Duration::from_nanos(1)));
        // Another request does not restart the wait.
        liveness.request_started(second(102));
        assert!(liveness.is_silent(second(102)));
        liveness.received(second(103));
        assert!(!liveness.is_silent(second(104)));
        assert!(liveness.is_silent(second(104) + Duration::from_nanos(1)));
        liveness.request_ended();
        assert!(liveness.is_silent(second(105)), "another request waits");
        liveness.request_ended();
        assert!(!liveness.is_silent(second(105)));
    }
}
