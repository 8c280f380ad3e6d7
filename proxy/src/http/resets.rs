//! Clients of HTTP/2 that begin requests in order to reset them: each costs an exchange with a
//! backend and is worth nothing to them. A few resets are everybody's right, and so are many among
//! more that are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{AtomicTimestamp, Clock};

/// What is counted together.
const PERIOD: Duration = Duration::from_secs(10);
/// Requests in a period from which on half of them may not be reset.
const MIN_REQUESTS: u32 = 200;

/// The requests of one connection.
pub(super) struct ResetTracker {
    clock: Clock,
    /// The begin of the period.
    since: AtomicTimestamp,
    begun: AtomicU32,
    reset: AtomicU32,
    too_many: CancellationToken,
}

/// A request that was not answered when this is dropped was reset.
pub(super) struct PendingRequest(Option<Arc<ResetTracker>>);

impl ResetTracker {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::start(),
            since: AtomicTimestamp::default(),
            begun: AtomicU32::new(0),
            reset: AtomicU32::new(0),
            too_many: CancellationToken::new(),
        }
    }

    pub(super) fn begin(self: &Arc<Self>) -> PendingRequest {
        let now = self.clock.now();
        if now.since(self.since.load()) > PERIOD {
            self.since.store(now);
            self.begun.store(0, Relaxed);
            self.reset.store(0, Relaxed);
        }
        self.begun.fetch_add(1, Relaxed);
        PendingRequest(Some(self.clone()))
    }

    /// Is cancelled when the connection is to be closed for its resets.
    pub(super) fn too_many(&self) -> &CancellationToken {
        &self.too_many
    }

    fn reset(&self) {
        let reset = self.reset.fetch_add(1, Relaxed) + 1;
        let begun = self.begun.load(Relaxed);
        if begun > MIN_REQUESTS && reset > begun / 2 {
            self.too_many.cancel();
        }
    }
}

impl PendingRequest {
    pub(super) fn responded(mut self) {
        self.0 = None;
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if let Some(of) = self.0.take() {
            of.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_of_half_of_many_requests_are_excessive() {
        let few = Arc::new(ResetTracker::new());
        (0..MIN_REQUESTS).for_each(|_| drop(few.begin()));
        assert!(!few.too_many.is_cancelled());
        drop(few.begin());
        assert!(few.too_many.is_cancelled());

        let fair = Arc::new(ResetTracker::new());
        for _ in 0..1_000 {
            fair.begin().responded();
            drop(fair.begin());
        }
        assert!(!fair.too_many.is_cancelled());
    }
}
