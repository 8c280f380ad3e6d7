//! For how long an endpoint is known to keep idle connections of HTTP/1.1.
//!
//! An endpoint may close an idle connection in the moment in which the next request is sent on it. What may be sent again is;
//! for what may not, a connection is used only where the endpoint has been seen to keep others for twice as long.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// An endpoint that closes its connections after each answer takes a moment for it: what was seen for less tells nothing.
const LEAST: Duration = Duration::from_millis(100);
/// For so long nothing is believed of an endpoint that closed a connection within that moment. A slow one may take longer for
/// another.
const DISTRUST: Duration = Duration::from_secs(10);

pub(super) struct KeepAlive {
    born: Instant,
    /// Nanoseconds, as seen.
    kept: AtomicU64,
    /// Nanoseconds, as its answers say.
    promised: AtomicU64,
    /// Nanoseconds from `born` to when it is believed again.
    distrusted: AtomicU64,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            kept: AtomicU64::new(0),
            promised: AtomicU64::new(u64::MAX),
            distrusted: AtomicU64::new(0),
        }
    }
}

impl KeepAlive {
    /// A connection was there still after `idle`.
    pub(super) fn open_after(&self, idle: Duration) {
        let idle = nanos(idle);
        if idle > self.kept.load(Relaxed) {
            self.kept.fetch_max(idle, Relaxed);
        }
    }

    /// The endpoint closed a connection after `idle`.
    pub(super) fn closed_after(&self, idle: Duration) {
        self.kept.fetch_min(nanos(idle), Relaxed);
        if idle < LEAST {
            let until = nanos(self.born.elapsed() + DISTRUST);
            self.distrusted.store(until, Relaxed);
        }
    }

    /// What the header `Keep-Alive` of an answer says.
    pub(super) fn promised(&self, header: &[u8]) {
        let timeout = std::str::from_utf8(header).ok().and_then(|text| {
            let mut parameters = text.split(',').filter_map(|one| one.split_once('='));
            parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))
        });
        let seconds = timeout.and_then(|(_, value)| value.trim().parse().ok());
        if let Some(seconds) = seconds {
            let promised = nanos(Duration::from_secs(seconds));
            self.promised.store(promised, Relaxed);
        }
    }

    /// Whether a connection that has been idle for this long is surely open for as long as a request takes to get there.
    pub(super) fn covers(&self, idle: Duration) -> bool {
        let kept = self.kept.load(Relaxed).min(self.promised.load(Relaxed));
        kept >= nanos(LEAST)
            && nanos(idle) <= kept / 2
            && nanos(self.born.elapsed()) >= self.distrusted.load(Relaxed)
    }
}

fn nanos(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_of_what_was_seen_or_said_is_relied_on() {
        let millis = Duration::from_millis;
        let of = KeepAlive::default();
        assert!(!of.covers(Duration::ZERO), "nothing is known yet");
        of.open_after(millis(99));
        assert!(!of.covers(Duration::ZERO), "it may be closing it");
        of.open_after(millis(400));
        assert!(of.covers(millis(200)) && !of.covers(millis(201)));
        of.closed_after(millis(300));
        assert!(of.covers(millis(150)) && !of.covers(millis(151)));
        of.open_after(millis(20_000));
        assert!(of.covers(millis(10_000)));
        of.promised(b"max=5, timeout=4");
        assert!(of.covers(millis(2_000)) && !of.covers(millis(2_001)));
        of.promised(b"nonsense");
        assert!(of.covers(millis(2_000)));
        of.closed_after(Duration::ZERO);
        of.open_after(millis(4_000));
        assert!(
            !of.covers(Duration::ZERO),
            "it closes them after each answer"
        );
        tokio::time::advance(DISTRUST).await;
        assert!(of.covers(millis(2_000)));
    }
}
