//! What is counted of requests, as handles: labels are looked up when configuration changes, never
//! by a request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::connections::ConnectionCounts;
use super::labels::{Direction, Pairs, RequestLabels, RetryResult, Route};
use super::outcome::{RequestOutcome, StatusClass};

/// Upper bounds of the latency buckets, in seconds.
pub(super) const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Outcomes of one handle: a peer that makes codes up cannot make series without end.
pub(super) const MAX_OUTCOMES: usize = 64;

/// Counters by outcome, of which there are few: found by comparing, and added at the first
/// occurrence.
#[derive(Debug)]
pub(super) struct OutcomeCounts<K>(ArcSwap<Vec<(K, Arc<AtomicU64>)>>);

impl<K> Default for OutcomeCounts<K> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<K: Copy + PartialEq> OutcomeCounts<K> {
    /// Beyond [`MAX_OUTCOMES`], those that have not occurred yet are not counted.
    pub(super) fn count(&self, outcome: K) {
        let find = |all: &Vec<(K, Arc<AtomicU64>)>| {
            let of = all.iter().find(|(known, _)| *known == outcome)?;
            of.1.fetch_add(1, Relaxed);
            Some(())
        };
        if find(&self.0.load()).is_some() {
            return;
        }
        self.0.rcu(|known| {
            let mut known = Vec::clone(known);
            if known.len() < MAX_OUTCOMES && known.iter().all(|(k, _)| *k != outcome) {
                known.push((outcome, Arc::default()));
            }
            known
        });
        find(&self.0.load());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    pub(super) fn counts(&self) -> Vec<(K, u64)> {
        let all = self.0.load();
        all.iter()
            .map(|(k, count)| (*k, count.load(Relaxed)))
            .collect()
    }
}

/// Latencies of one class of status.
#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
}

/// A histogram as it is written out.
pub(super) struct HistogramValues {
    /// Each bucket alone, with its upper bound.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Relaxed);
        }
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }

    fn values(&self) -> HistogramValues {
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        HistogramValues {
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
            sum: self.sum_nanos.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// The counters of one (direction, parent, route, rule, backend).
pub struct RequestMetrics {
    labels: RequestLabels,
    /// As the access log has them.
    route: Box<str>,
    backend: Box<str>,
    pub(super) responses: OutcomeCounts<RequestOutcome>,
    /// By class of status, in the order of [`StatusClass::ALL`]; most handles see one or two.
    durations: [OnceLock<Box<Histogram>>; StatusClass::ALL.len()],
    /// In the order of [`RetryResult::ALL`].
    retries: [AtomicU64; RetryResult::ALL.len()],
    /// Connections passed on as bytes.
    pub connections: ConnectionCounts,
}

impl fmt::Debug for RequestMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestMetrics").field(&self.labels).finish()
    }
}

impl RequestMetrics {
    pub(super) fn new(labels: RequestLabels) -> Self {
        Self {
            route: labels.route.to_string().into(),
            backend: labels.backend.to_string().into(),
            labels,
            responses: OutcomeCounts::default(),
            durations: Default::default(),
            retries: Default::default(),
            connections: ConnectionCounts::default(),
        }
    }

    pub fn direction(&self) -> Direction {
        self.labels.direction
    }

    /// `HTTPRoute namespace/name`; empty without a route.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The rule's name, or its index.
    pub fn rule(&self) -> &str {
        match &self.labels.route {
            Route::Rule(_, rule) => rule,
            Route::None | Route::Other => "",
        }
    }

    /// `namespace/service:port`; empty when none was chosen.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    pub(super) fn label_pairs(&self) -> Pairs {
        self.labels.pairs()
    }

    /// Counts one completed request.
    pub fn record(&self, outcome: RequestOutcome, duration: Duration) {
        self.responses.count(outcome);
        let class = StatusClass::of(&outcome) as usize;
        if let Some(histogram) = self.durations.get(class) {
            histogram.get_or_init(Box::default).observe(duration);
        }
    }

    /// Counts a retry that was sent, or would have been.
    pub fn count_retry(&self, result: RetryResult) {
        if let Some(count) = self.retries.get(result as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Those that have occurred.
    pub(super) fn durations(&self) -> impl Iterator<Item = (StatusClass, HistogramValues)> {
        let all = StatusClass::ALL.into_iter().zip(&self.durations);
        all.filter_map(|(class, histogram)| Some((class, histogram.get()?.values())))
    }

    /// Those that have occurred.
    pub(super) fn retries(&self) -> impl Iterator<Item = (RetryResult, u64)> {
        let all = RetryResult::ALL.into_iter().zip(&self.retries);
        all.map(|(result, count)| (result, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}
