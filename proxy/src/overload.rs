//! Bounds on what a proxy holds, by the memory that it may use: beyond them new connections and
//! requests are refused, before the kernel kills the process with all that it carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::body::ReplayMemory;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::metrics::Metrics;

/// Memory for each connection and for each request in flight: more than most of them take.
/// [`HIGH_PERCENT`] covers the rest.
const CONNECTION: u64 = 32 << 10;
const REQUEST: u64 = 64 << 10;
/// The part of the bound on connections that connections may be over it which end to make room for
/// others.
const ENDING_PART: usize = 8;
/// How many these may be in any case.
const ENDING: usize = 64;
/// With no more than this part of the bound left, clients have less time to begin a request.
const CROWDED_PART: usize = 4;
/// The part of the memory for replay buffers.
const REPLAY_PART: u64 = 8;
/// The same where the memory is not limited.
const DEFAULT_REPLAY: usize = 64 << 20;
/// With this much of the memory in use only a few requests are taken at a time.
const HIGH_PERCENT: u64 = 90;
/// Those few: memory may be in use for other reasons, and a proxy that takes nothing would never
/// recover.
const MIN_REQUESTS: usize = 16;
/// The interval at which memory in use is sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    #[error("too many connections are open")]
    Connections,
    #[error("too many requests are under way")]
    Requests,
    #[error("memory is short")]
    Memory,
}

impl Limit {
    pub fn error_type(self) -> ErrorType {
        match self {
            Self::Connections => ErrorType::ConnectionLimit,
            Self::Requests => ErrorType::RequestLimit,
            Self::Memory => ErrorType::MemoryLimit,
        }
    }
}

/// A request of the proxy's own.
pub struct CountedRequest<'a>(&'a Overload);

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// Counts what is held, and decides when it is too much.
#[derive(Debug)]
pub struct Overload {
    memory: Option<u64>,
    connections: usize,
    requests: usize,
    under_way: AtomicUsize,
    high: AtomicBool,
    pub replay: Arc<ReplayMemory>,
    metrics: Arc<Metrics>,
}

impl Overload {
    /// `memory`: bytes that the process may use; `None` for no limit.
    pub fn new(memory: Option<u64>, metrics: Arc<Metrics>) -> Self {
        let most = |each: u64| {
            let most = memory.map(|memory| memory / each);
            most.and_then(|most| usize::try_from(most).ok())
                .unwrap_or(usize::MAX)
        };
        let replay = memory.map_or(DEFAULT_REPLAY, |_| most(REPLAY_PART));
        Self {
            memory,
            connections: most(CONNECTION),
            requests: most(REQUEST),
            under_way: AtomicUsize::new(0),
            high: AtomicBool::new(false),
            replay: Arc::new(ReplayMemory::new(replay)),
            metrics,
        }
    }

    /// A request has begun, which [`Overload::request_ended`] ends.
    pub fn request_started(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    pub fn request_ended(&self) {
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// Counts a request of the proxy's own, until dropped.
    pub fn count_request(&self) -> CountedRequest<'_> {
        self.request_started();
        CountedRequest(self)
    }

    /// Returns the limit by which the latest request is to be refused, if it is.
    pub fn check_request(&self) -> Option<Limit> {
        let under_way = self.under_way.load(Relaxed);
        if under_way > self.requests {
            return Some(self.shed(Limit::Requests));
        }
        if under_way > MIN_REQUESTS && self.high.load(Relaxed) {
            return Some(self.shed(Limit::Memory));
        }
        None
    }

    /// Returns true if one more connection may be accepted beside `open` others. At the bound that
    /// is up to `make_room`, which has another one closed.
    pub fn admits_connection(&self, open: usize, make_room: impl FnOnce() -> bool) -> bool {
        let with_ending = self
            .connections
            .saturating_add(ENDING.max(self.connections / ENDING_PART));
        let admits = open < self.connections || (open < with_ending && make_room());
        if !admits {
            self.shed(Limit::Connections);
        }
        admits
    }

    fn shed(&self, limit: Limit) -> Limit {
        self.metrics.shed(limit.error_type());
        limit
    }

    /// Returns true if `open` connections are close to the bound.
    pub fn is_crowded(&self, open: usize) -> bool {
        open >= self.connections - self.connections / CROWDED_PART
    }

    /// Samples the memory in use, until dropped.
    pub async fn watch(&self) {
        let Some(memory) = self.memory else {
            return std::future::pending().await;
        };
        loop {
            let used = weft_process::resident_bytes().unwrap_or(0);
            let high = used > memory / 100 * HIGH_PERCENT;
            if high != self.high.swap(high, Relaxed) {
                tracing::warn!(high, used, memory, "memory in use");
            }
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_limits_scale_with_memory_limit() {
        let metrics = Arc::new(Metrics::new());
        let overload = Overload::new(Some(1 << 20), metrics.clone());
        let admits = |open, room| overload.admits_connection(open, || room);
        assert!(admits(31, false) && !admits(32, false));
        assert!(admits(32, true) && admits(95, true) && !admits(96, true));
        assert!(!overload.is_crowded(23) && overload.is_crowded(24));
        (0..16).for_each(|_| overload.request_started());
        assert_eq!(overload.check_request(), None);
        overload.request_started();
        assert!(overload.check_request().is_some());
        overload.request_ended();
        assert_eq!(overload.check_request(), None);
        assert!(overload.replay.reserve(100 << 10));
        assert!(!overload.replay.reserve(100 << 10));
        assert_eq!(overload.replay.held(), 100 << 10);
        let text = metrics.encode().unwrap();
        for (limit, count) in [("connection_limit", 2), ("request_limit", 1)] {
            let line = format!("weft_overload_shed_total{{error_type=\"{limit}\"}} {count}");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn minimum_of_requests_is_admitted_when_memory_is_high() {
        let overload = Overload::new(Some(1 << 30), Arc::default());
        (0..MIN_REQUESTS).for_each(|_| overload.request_started());
        overload.high.store(true, Relaxed);
        assert_eq!(overload.check_request(), None);
        overload.request_started();
        assert!(overload.check_request().is_some());
        overload.high.store(false, Relaxed);
        assert_eq!(overload.check_request(), None);
    }

    #[test]
    fn without_memory_limit_only_replay_memory_is_limited() {
        let overload = Overload::new(None, Arc::default());
        assert!(overload.admits_connection(1 << 30, || false) && !overload.is_crowded(1 << 30));
        assert!(!overload.replay.reserve(DEFAULT_REPLAY + 1));
    }
}
