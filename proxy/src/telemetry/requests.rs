//! Request counters and latencies as handles: labels are looked up when configuration changes,
//! never by a request.
//!
//! The number of series is bounded: beyond the bound, those that no configuration uses give way,
//! and when all are in use, new ones are counted together under the route `other`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::connections::ConnectionCounts;

/// Which way a connection or request goes, seen from the pod. Those of a gateway's clients are of a
/// way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
    Gateway,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// What the application's request was, as it is told in metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    Http1,
    Http2,
    Grpc,
}

impl RequestProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
        }
    }
}

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    direction: Direction,
    route: Arc<str>,
    rule: Arc<str>,
    backend: Arc<str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ResponseLabels {
    protocol: RequestProtocol,
    code: StatusCode,
    grpc: Option<i32>,
}

type ResponseCounts = Vec<(ResponseLabels, Arc<AtomicU64>)>;

/// Label sets of one handle: a peer that makes codes up cannot make series without end.
const MAX_RESPONSE_LABELS: usize = 64;

/// The counters of one (direction, route, rule, backend).
pub struct RequestMetrics {
    labels: Labels,
    responses: ArcSwap<ResponseCounts>,
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
    /// Connections passed on as bytes.
    pub connections: ConnectionCounts,
}

impl fmt::Debug for RequestMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestMetrics").field(&self.labels).finish()
    }
}

impl RequestMetrics {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            responses: ArcSwap::default(),
            buckets: Default::default(),
            sum_nanos: AtomicU64::new(0),
            connections: ConnectionCounts::default(),
        }
    }

    pub fn direction(&self) -> Direction {
        self.labels.direction
    }

    /// `HTTPRoute namespace/name`; empty without a route.
    pub fn route(&self) -> &str {
        &self.labels.route
    }

    /// The rule's name, or its place.
    pub fn rule(&self) -> &str {
        &self.labels.rule
    }

    /// `namespace/service:port`; empty when none was chosen.
    pub fn backend(&self) -> &str {
        &self.labels.backend
    }

    pub(super) fn label_pairs(&self) -> Vec<(&'static str, String)> {
        self.labels.pairs()
    }

    /// Counts one answered request. `grpc` is the status a gRPC answer ended with.
    pub fn record(
        &self,
        protocol: RequestProtocol,
        code: StatusCode,
        grpc: Option<i32>,
        duration: Duration,
    ) {
        self.count(ResponseLabels {
            protocol,
            code,
            // Other numbers are no gRPC status: UNKNOWN, by the gRPC specification.
            grpc: grpc.map(|status| {
                if (0..=16).contains(&status) {
                    status
                } else {
                    2
                }
            }),
        });
        let seconds = duration.as_secs_f64();
        let place = BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn count(&self, labels: ResponseLabels) {
        let find = |all: &ResponseCounts| {
            let of = all.iter().find(|(known, _)| *known == labels)?;
            of.1.fetch_add(1, Ordering::Relaxed);
            Some(())
        };
        if find(&self.responses.load()).is_some() {
            return;
        }
        self.responses.rcu(|known| {
            let mut known = ResponseCounts::clone(known);
            if known.len() < MAX_RESPONSE_LABELS && known.iter().all(|(k, _)| *k != labels) {
                known.push((labels, Arc::default()));
            }
            known
        });
        find(&self.responses.load());
    }
}

/// Every handle, by its labels.
#[derive(Debug)]
pub struct RequestSeries {
    known: Mutex<HashMap<Labels, Arc<RequestMetrics>>>,
    max: usize,
}

impl RequestSeries {
    pub fn new(max: usize) -> Self {
        Self {
            known: Mutex::default(),
            max,
        }
    }

    /// The handle of these labels, made at the first call. For configuration changes, not for
    /// requests.
    pub fn get(
        &self,
        direction: Direction,
        route: &str,
        rule: &str,
        backend: &str,
    ) -> Arc<RequestMetrics> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = Labels {
            direction,
            route: route.into(),
            rule: rule.into(),
            backend: backend.into(),
        };
        if known.len() >= self.max && !known.contains_key(&labels) {
            known.retain(|_, handle| Arc::strong_count(handle) > 1);
            if known.len() >= self.max {
                labels = Labels {
                    direction,
                    route: "other".into(),
                    rule: "".into(),
                    backend: "".into(),
                };
            }
        }
        let handle = known
            .entry(labels.clone())
            .or_insert_with(|| Arc::new(RequestMetrics::new(labels)));
        handle.clone()
    }

    fn handles(&self) -> Vec<Arc<RequestMetrics>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().cloned().collect()
    }
}

/// Writes the series out at each scrape.
#[derive(Debug)]
pub(super) struct RequestCollector(pub(super) Arc<RequestSeries>);

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut handles = self.0.handles();
        super::connections::encode(&mut encoder, &handles)?;
        // Without a request a handle says nothing.
        handles.retain(|handle| !handle.responses.load().is_empty());
        if handles.is_empty() {
            return Ok(());
        }
        let mut requests = encoder.encode_descriptor(
            "weft_requests",
            "Requests answered",
            None,
            MetricType::Counter,
        )?;
        for handle in &handles {
            for (labels, count) in handle.responses.load().iter() {
                let labels = handle.labels.with(labels);
                let count = count.load(Ordering::Relaxed);
                requests
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
        }
        let mut durations = encoder.encode_descriptor(
            "weft_request_duration_seconds",
            "Time from a request's head to the end of its answer",
            None,
            MetricType::Histogram,
        )?;
        for handle in &handles {
            let (buckets, count) = handle.cumulated();
            let sum = handle.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
            durations
                .encode_family(&handle.labels.pairs())?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

impl Labels {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("direction", self.direction.as_str().to_owned()),
            ("route", self.route.to_string()),
            ("rule", self.rule.to_string()),
            ("backend", self.backend.to_string()),
        ]
    }

    fn with(&self, labels: &ResponseLabels) -> Vec<(&'static str, String)> {
        let mut pairs = self.pairs();
        pairs.push(("code", labels.code.as_str().to_owned()));
        pairs.push(("protocol", labels.protocol.as_str().to_owned()));
        if let Some(status) = labels.grpc {
            pairs.push(("grpc_status", status.to_string()));
        }
        pairs
    }
}

impl RequestMetrics {
    /// Buckets as `encode_histogram` takes them (each alone), and the number of all.
    fn cumulated(&self) -> (Vec<(f64, u64)>, u64) {
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|b| b.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (buckets, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn ok(handle: &RequestMetrics, millis: u64) {
        let took = Duration::from_millis(millis);
        handle.record(RequestProtocol::Http1, StatusCode::OK, None, took);
    }

    #[test]
    fn requests_are_told_by_route_rule_backend_and_code() {
        let metrics = Metrics::new();
        let get = || {
            metrics
                .requests
                .get(Direction::Outbound, "HTTPRoute a/b", "0", "a/v1:80")
        };
        ok(&get(), 3);
        ok(&get(), 70);
        let grpc = RequestProtocol::Grpc;
        get().record(grpc, StatusCode::OK, Some(14), Duration::ZERO);
        let text = metrics.encode().unwrap();
        let labels = r#"direction="outbound",route="HTTPRoute a/b",rule="0",backend="a/v1:80""#;
        for line in [
            format!(r#"weft_requests_total{{{labels},code="200",protocol="http/1.1"}} 2"#),
            format!(
                r#"weft_requests_total{{{labels},code="200",protocol="grpc",grpc_status="14"}} 1"#
            ),
            format!(r#"weft_request_duration_seconds_bucket{{le="0.0025",{labels}}} 1"#),
            format!(r#"weft_request_duration_seconds_bucket{{le="0.005",{labels}}} 2"#),
            format!(r#"weft_request_duration_seconds_bucket{{le="+Inf",{labels}}} 3"#),
            format!(r#"weft_request_duration_seconds_count{{{labels}}} 3"#),
            format!(r#"weft_request_duration_seconds_sum{{{labels}}} 0.073"#),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn series_are_bounded_and_unused_ones_give_way() {
        let series = RequestSeries::new(3);
        let get = |route: &str| series.get(Direction::Outbound, route, "", "");
        let held: Vec<_> = ["a", "b"].map(get).to_vec();
        drop(get("c"));
        assert_eq!(get("d").route(), "d", "c gave way");
        let d = get("d");
        assert_eq!(get("e").route(), "other");
        drop((held, d));
        assert_eq!(get("f").route(), "f");
    }

    #[test]
    fn a_peer_cannot_make_series_up() {
        let series = RequestSeries::new(3);
        let handle = series.get(Direction::Inbound, "", "", "");
        for code in 100..1_000 {
            let code = StatusCode::from_u16(code).unwrap();
            for status in -5..100 {
                let grpc = RequestProtocol::Grpc;
                handle.record(grpc, code, Some(status), Duration::ZERO);
            }
        }
        assert_eq!(handle.responses.load().len(), MAX_RESPONSE_LABELS);
    }
}
