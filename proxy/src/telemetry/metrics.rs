//! The registry of metrics, and the handles through which every part counts.
//!
//! Handles of the connection path are resolved once, here; those of requests are in
//! [`super::requests`].

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use weft_process::ProcessCollector;

use super::requests::{Direction, RequestCollector, RequestMetrics, RequestSeries};
use super::udp::UdpMetrics;

/// Handles of (direction, route, rule, backend) at most; each has a histogram and a few counters.
const MAX_REQUEST_SERIES: usize = 2_000;

/// How a connection's bytes are protected between this proxy and the other side of the pod's
/// border.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionTls {
    /// Mutual TLS between proxies.
    Mesh,
    /// TLS of the application's own, passed through.
    Application,
    /// TLS that ends at this proxy, which is a gateway's.
    Terminated,
    None,
}

impl ConnectionTls {
    fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Application => "application",
            Self::Terminated => "terminated",
            Self::None => "none",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    direction: &'static str,
    tls: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolErrorLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Counts one connection from its start to its end.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Every metric of the proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub requests: Arc<RequestSeries>,
    /// Requests that other pods, or other clients, send to this pod.
    pub inbound: Arc<RequestMetrics>,
    /// Requests to a pod's own address.
    pub outbound_pod: Arc<RequestMetrics>,
    /// Requests to what is neither a Service nor a pod.
    pub outbound_unknown: Arc<RequestMetrics>,
    connections_total: Family<ConnectionLabels, Counter>,
    connections_open: Family<ConnectionLabels, Gauge>,
    handshakes: Family<HandshakeLabels, Counter>,
    protocol_errors: Family<ProtocolErrorLabels, Counter>,
    passthrough: Family<ReasonLabels, Counter>,
    mirrored: Family<ResultLabels, Counter>,
    shed: Family<ReasonLabels, Counter>,
    /// Requests sent once more because their rule says so.
    pub retries: Counter,
    /// Requests not sent once more because their cluster's budget was used up.
    pub retry_budget_exhausted: Counter,
    pub config: ConfigMetrics,
    pub udp: UdpMetrics,
    /// Unix seconds; 0: none yet.
    pub certificate_expiry: Gauge,
    /// Roots that peers are checked against.
    pub trusted_roots: Gauge,
    pub certificate_renewals: Counter,
    pub certificate_failures: Counter,
    pub access_log_dropped: Counter,
    /// Connections that gave way to others.
    pub rejected: weft_accept::Metrics,
}

/// The state of the stream from the controller.
#[derive(Clone, Debug, Default)]
pub struct ConfigMetrics {
    /// 1 while the stream is up.
    pub connected: Gauge,
    pub connects: Counter,
    pub updates: Counter,
    pub refused: Counter,
    pub destinations: Gauge,
    pub clusters: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let requests = Arc::new(RequestSeries::new(MAX_REQUEST_SERIES));
        let mut metrics = Self {
            registry: Registry::default(),
            inbound: requests.get(Direction::Inbound, "", "", ""),
            outbound_pod: requests.get(Direction::Outbound, "", "", "pod"),
            outbound_unknown: requests.get(Direction::Outbound, "", "", "unknown"),
            requests,
            connections_total: Family::default(),
            connections_open: Family::default(),
            handshakes: Family::default(),
            protocol_errors: Family::default(),
            passthrough: Family::default(),
            mirrored: Family::default(),
            shed: Family::default(),
            retries: Counter::default(),
            retry_budget_exhausted: Counter::default(),
            config: ConfigMetrics::default(),
            udp: UdpMetrics::default(),
            certificate_expiry: Gauge::default(),
            trusted_roots: Gauge::default(),
            certificate_renewals: Counter::default(),
            certificate_failures: Counter::default(),
            access_log_dropped: Counter::default(),
            rejected: weft_accept::Metrics::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_collector(Box::new(RequestCollector(self.requests.clone())));
        registry.register_collector(Box::new(ProcessCollector::new("proxy")));
        self.rejected.register(registry);
        self.udp.register(registry);
        let mut add = |name: &str, help: &str, metric: Box<dyn Registered>| {
            metric.register(registry, name, help);
        };
        add(
            "weft_connections",
            "Connections accepted",
            Box::new(self.connections_total.clone()),
        );
        add(
            "weft_connections_open",
            "Connections open now",
            Box::new(self.connections_open.clone()),
        );
        add(
            "weft_tls_handshakes",
            "TLS handshakes",
            Box::new(self.handshakes.clone()),
        );
        add(
            "weft_protocol_errors",
            "Connections closed for what they sent",
            Box::new(self.protocol_errors.clone()),
        );
        add(
            "weft_passthrough",
            "Connections passed through unchanged",
            Box::new(self.passthrough.clone()),
        );
        add(
            "weft_mirrored_requests",
            "Copies of requests for mirrors",
            Box::new(self.mirrored.clone()),
        );
        add(
            "weft_overload_shed",
            "Connections and requests not taken because too much was under way",
            Box::new(self.shed.clone()),
        );
        add(
            "weft_request_retries",
            "Requests sent once more because their rule says so",
            Box::new(self.retries.clone()),
        );
        add(
            "weft_retry_budget_exhausted",
            "Requests not sent once more because too many of their cluster's were",
            Box::new(self.retry_budget_exhausted.clone()),
        );
        add(
            "weft_config_connected",
            "1 while the controller's stream is up",
            Box::new(self.config.connected.clone()),
        );
        add(
            "weft_config_connects",
            "Streams to the controller begun",
            Box::new(self.config.connects.clone()),
        );
        add(
            "weft_config_updates",
            "Updates taken from the controller",
            Box::new(self.config.updates.clone()),
        );
        add(
            "weft_config_refused",
            "Resources refused",
            Box::new(self.config.refused.clone()),
        );
        add(
            "weft_config_destinations",
            "Destinations held",
            Box::new(self.config.destinations.clone()),
        );
        add(
            "weft_config_clusters",
            "Sets of endpoints held",
            Box::new(self.config.clusters.clone()),
        );
        add(
            "weft_certificate_expiry_timestamp_seconds",
            "When the certificate ends, in Unix time",
            Box::new(self.certificate_expiry.clone()),
        );
        add(
            "weft_trusted_roots",
            "Roots that peers are checked against",
            Box::new(self.trusted_roots.clone()),
        );
        add(
            "weft_certificate_renewals",
            "Certificates obtained",
            Box::new(self.certificate_renewals.clone()),
        );
        add(
            "weft_certificate_failures",
            "Failed attempts to obtain a certificate",
            Box::new(self.certificate_failures.clone()),
        );
        add(
            "weft_access_log_dropped",
            "Access log lines dropped because the writer was behind",
            Box::new(self.access_log_dropped.clone()),
        );
    }

    /// Counts a connection; it is open until the returned guard is dropped.
    pub fn connection(&self, direction: Direction, tls: ConnectionTls) -> OpenConnection {
        let labels = ConnectionLabels {
            direction: direction.as_str(),
            tls: tls.as_str(),
        };
        self.connections_total.get_or_create(&labels).inc();
        let open = self.connections_open.get_or_create(&labels).clone();
        open.inc();
        OpenConnection(open)
    }

    /// `result` is `ok` or, in one word, what went wrong.
    pub fn handshake(&self, direction: Direction, result: &'static str) {
        let labels = HandshakeLabels {
            direction: direction.as_str(),
            result,
        };
        self.handshakes.get_or_create(&labels).inc();
    }

    /// Of a gateway with the application itself; `result` as in [`Metrics::handshake`].
    pub fn backend_handshake(&self, result: &'static str) {
        let labels = HandshakeLabels {
            direction: "backend",
            result,
        };
        self.handshakes.get_or_create(&labels).inc();
    }

    /// A peer sent what the listener's protocol does not allow.
    pub fn protocol_error(&self, listener: &'static str, reason: &'static str) {
        let labels = ProtocolErrorLabels { listener, reason };
        self.protocol_errors.get_or_create(&labels).inc();
    }

    /// A connection was passed through; `reason` as `controller_unreachable` or
    /// `unknown_destination`.
    pub fn passed_through(&self, reason: &'static str) {
        self.passthrough
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// `result` is `answered`, `failed`, `timeout`, or `dropped`: too many copies were under way.
    pub fn mirrored(&self, result: &'static str) {
        self.mirrored.get_or_create(&ResultLabels { result }).inc();
    }

    /// Something was not taken; `reason` is `connections`, `requests`, `memory` or `endpoint`.
    pub fn shed(&self, reason: &'static str) {
        self.shed.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(8 << 10);
        self.write(&mut text)?;
        Ok(text)
    }

    /// As [`Metrics::encode`], into `text`.
    pub fn write(&self, text: &mut String) -> fmt::Result {
        prometheus_client::encoding::text::encode(text, &self.registry)
    }
}

/// A metric that can be put into the registry.
trait Registered {
    fn register(self: Box<Self>, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric> Registered for M {
    fn register(self: Box<Self>, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, *self);
    }
}
