//! An estimate of how long an endpoint keeps idle connections of HTTP/1.1.
//!
//! An endpoint may close an idle connection in the moment in which the next request is sent on it.
//! A request that may be sent again is; for one that may not, a connection is used only if the
//! endpoint has been seen to keep others for twice as long.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::{AtomicTimestamp, Clock};

/// An endpoint that closes its connections after each response takes a moment for it: shorter
/// observations say nothing.
const MIN_EVIDENCE: Duration = Duration::from_millis(100);
/// How long an endpoint that closed a connection within that moment is distrusted: a slow one may
/// take longer for another.
const DISTRUST: Duration = Duration::from_secs(10);

pub(super) struct IdleTimeoutEstimate {
    clock: Clock,
    /// Nanoseconds, as observed.
    kept: AtomicU64,
    /// Nanoseconds, as its `Keep-Alive` headers say.
    announced: AtomicU64,
    distrusted_until: AtomicTimestamp,
}

impl Default for IdleTimeoutEstimate {
    fn default() -> Self {
        Self {
            clock: Clock::start(),
            kept: AtomicU64::new(0),
            announced: AtomicU64::new(u64::MAX),
            distrusted_until: AtomicTimestamp::default(),
        }
    }
}

impl IdleTimeoutEstimate {
    /// Records that a connection was still open after `idle`.
    pub(super) fn observed_open(&self, idle: Duration) {
        let idle = nanos(idle);
        if idle > self.kept.load(Relaxed) {
            self.kept.fetch_max(idle, Relaxed);
        }
    }

    /// Records that the endpoint closed a connection after `idle`.
    pub(super) fn observed_closed(&self, idle: Duration) {
        self.kept.fetch_min(nanos(idle), Relaxed);
        if idle < MIN_EVIDENCE {
            self.distrusted_until.store(self.clock.now() + DISTRUST);
        }
    }

    /// Records a response's `Keep-Alive` header.
    pub(super) fn observed_header(&self, header: &[u8]) {
        let timeout = std::str::from_utf8(header).ok().and_then(|text| {
            let mut parameters = text.split(',').filter_map(|one| one.split_once('='));
            parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))
        });
        let seconds = timeout.and_then(|(_, value)| value.trim().parse().ok());
        if let Some(seconds) = seconds {
            let announced = nanos(Duration::from_secs(seconds));
            self.announced.store(announced, Relaxed);
        }
    }

    /// Returns true if a connection that has been idle for this long certainly stays open for as
    /// long as a request takes to arrive.
    pub(super) fn is_safe(&self, idle: Duration) -> bool {
        let kept = self.kept.load(Relaxed).min(self.announced.load(Relaxed));
        kept >= nanos(MIN_EVIDENCE)
            && nanos(idle) <= kept / 2
            && self.clock.now() >= self.distrusted_until.load()
    }
}

fn nanos(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_of_estimated_idle_timeout_is_safe() {
        let millis = Duration::from_millis;
        let of = IdleTimeoutEstimate::default();
        assert!(!of.is_safe(Duration::ZERO), "nothing is known yet");
        of.observed_open(millis(99));
        assert!(
            !of.is_safe(Duration::ZERO),
            "the application may be closing it"
        );
        of.observed_open(millis(400));
        assert!(of.is_safe(millis(200)) && !of.is_safe(millis(201)));
        of.observed_closed(millis(300));
        assert!(of.is_safe(millis(150)) && !of.is_safe(millis(151)));
        of.observed_open(millis(20_000));
        assert!(of.is_safe(millis(10_000)));
        of.observed_header(b"max=5, timeout=4");
        assert!(of.is_safe(millis(2_000)) && !of.is_safe(millis(2_001)));
        of.observed_header(b"nonsense");
        assert!(of.is_safe(millis(2_000)));
        of.observed_closed(Duration::ZERO);
        of.observed_open(millis(4_000));
        assert!(
            !of.is_safe(Duration::ZERO),
            "it closes connections after each response"
        );
        tokio::time::advance(DISTRUST).await;
        assert!(of.is_safe(millis(2_000)));
    }
}
