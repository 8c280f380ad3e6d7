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

use super::authorization::{DecisionCollector, DecisionSeries};
use super::error_type::ErrorType;
use super::health::HealthMetrics;
use super::labels::{
    AuthResult, BackendRef, ConnectionTls, Direction, InjectedFault, MirrorResult,
    PassthroughReason, RequestLabels,
};
use super::limits::LimitMetrics;
use super::outliers::OutlierMetrics;
use super::requests::RequestMetrics;
use super::series::{RequestCollector, RequestSeries};
use super::udp::UdpMetrics;
use crate::tls::HandshakeError;

/// Handles of (direction, parent, route, rule, backend) at most; each has some histograms and a few
/// counters.
const MAX_REQUEST_SERIES: usize = 2_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    direction: Direction,
    tls: ConnectionTls,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolErrorLabels {
    listener: &'static str,
    error_type: ErrorType,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error_type: ErrorType,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassthroughLabels {
    reason: PassthroughReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorLabels {
    result: MirrorResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthLabels {
    direction: Direction,
    result: AuthResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    direction: Direction,
    fault: InjectedFault,
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
    pub decisions: Arc<DecisionSeries>,
    /// Requests that other pods, or other clients, send to this pod.
    pub inbound: Arc<RequestMetrics>,
    /// Requests to a pod's own address.
    pub outbound_pod: Arc<RequestMetrics>,
    /// Requests to what is neither a Service nor a pod.
    pub outbound_unknown: Arc<RequestMetrics>,
    /// Requests of a gateway's clients that have no listener, or are refused before it is known.
    pub gateway: Arc<RequestMetrics>,
    /// In the order of [`Direction::ALL`].
    requests_active: [Gauge; Direction::ALL.len()],
    requests_active_family: Family<DirectionLabels, Gauge>,
    connections_total: Family<ConnectionLabels, Counter>,
    connections_open: Family<ConnectionLabels, Gauge>,
    handshakes: Family<HandshakeLabels, Counter>,
    protocol_errors: Family<ProtocolErrorLabels, Counter>,
    passthrough: Family<PassthroughLabels, Counter>,
    mirrored: Family<MirrorLabels, Counter>,
    external_auth: Family<AuthLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
    shed: Family<ErrorLabels, Counter>,
    /// Requests not retried because their cluster's budget was used up.
    pub retry_budget_exhausted: Counter,
    pub config: ConfigMetrics,
    pub udp: UdpMetrics,
    pub outliers: OutlierMetrics,
    pub limits: LimitMetrics,
    pub health: HealthMetrics,
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
        let outbound = |backend| {
            requests.get(RequestLabels {
                backend,
                ..RequestLabels::of(Direction::Outbound)
            })
        };
        let requests_active_family = Family::<DirectionLabels, Gauge>::default();
        let active =
            |direction| requests_active_family.get_or_create_owned(&DirectionLabels { direction });
        let mut metrics = Self {
            registry: Registry::default(),
            inbound: requests.get(RequestLabels::of(Direction::Inbound)),
            outbound_pod: outbound(BackendRef::Pod),
            outbound_unknown: outbound(BackendRef::Unknown),
            gateway: requests.get(RequestLabels::of(Direction::Gateway)),
            requests,
            decisions: Arc::default(),
            requests_active: Direction::ALL.map(active),
            requests_active_family,
            connections_total: Family::default(),
            connections_open: Family::default(),
            handshakes: Family::default(),
            protocol_errors: Family::default(),
            passthrough: Family::default(),
            mirrored: Family::default(),
            external_auth: Family::default(),
            faults: Family::default(),
            shed: Family::default(),
            retry_budget_exhausted: Counter::default(),
            config: ConfigMetrics::default(),
            udp: UdpMetrics::default(),
            outliers: OutlierMetrics::default(),
            limits: LimitMetrics::default(),
            health: HealthMetrics::default(),
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
        registry.register_collector(Box::new(DecisionCollector(self.decisions.clone())));
        registry.register_collector(Box::new(ProcessCollector::new("proxy")));
        self.rejected.register(registry);
        self.udp.register(registry);
        self.outliers.register(registry);
        self.limits.register(registry);
        self.health.register(registry);
        let mut add = |name: &str, help: &str, metric: Box<dyn Registered>| {
            metric.register(registry, name, help);
        };
        add(
            "weft_requests_active",
            "Requests in flight",
            Box::new(self.requests_active_family.clone()),
        );
        add(
            "weft_connections",
            "Accepted connections",
            Box::new(self.connections_total.clone()),
        );
        add(
            "weft_connections_open",
            "Open connections",
            Box::new(self.connections_open.clone()),
        );
        add(
            "weft_tls_handshakes",
            "TLS handshakes",
            Box::new(self.handshakes.clone()),
        );
        add(
            "weft_protocol_errors",
            "Connections closed for a protocol error, or because they had no destination",
            Box::new(self.protocol_errors.clone()),
        );
        add(
            "weft_passthrough",
            "Connections passed through unchanged",
            Box::new(self.passthrough.clone()),
        );
        add(
            "weft_mirrored_requests",
            "Mirrored requests",
            Box::new(self.mirrored.clone()),
        );
        add(
            "weft_external_auth_checks",
            "Requests that an external server was asked to authorize",
            Box::new(self.external_auth.clone()),
        );
        add(
            "weft_injected_faults",
            "Faults that FaultFilters injected into requests",
            Box::new(self.faults.clone()),
        );
        add(
            "weft_overload_shed",
            "Connections and requests turned away because of a limit",
            Box::new(self.shed.clone()),
        );
        add(
            "weft_retry_budget_exhausted",
            "Requests not retried because the retry budget of their cluster was exhausted",
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

    /// Requests in flight.
    pub fn active_requests(&self, direction: Direction) -> &Gauge {
        let [inbound, outbound, gateway] = &self.requests_active;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
            Direction::Gateway => gateway,
        }
    }

    /// Counts a connection; it is open until the returned guard is dropped.
    pub fn connection(&self, direction: Direction, tls: ConnectionTls) -> OpenConnection {
        let labels = ConnectionLabels { direction, tls };
        self.connections_total.get_or_create(&labels).inc();
        let open = self.connections_open.get_or_create(&labels).clone();
        open.inc();
        OpenConnection(open)
    }

    /// Counts a handshake with another proxy, or with a gateway's client.
    pub fn handshake(&self, direction: Direction, result: Result<(), HandshakeError>) {
        self.count_handshake(direction.as_str(), result);
    }

    /// Counts a handshake of a gateway with the application itself.
    pub fn backend_handshake(&self, result: Result<(), HandshakeError>) {
        self.count_handshake("backend", result);
    }

    fn count_handshake(&self, direction: &'static str, result: Result<(), HandshakeError>) {
        let labels = HandshakeLabels {
            direction,
            result: result.map_or_else(HandshakeError::as_str, |()| "ok"),
        };
        self.handshakes.get_or_create(&labels).inc();
    }

    /// Counts a connection that is closed because of what its peer sent, or because it leads
    /// nowhere.
    pub fn protocol_error(&self, listener: &'static str, error_type: ErrorType) {
        let labels = ProtocolErrorLabels {
            listener,
            error_type,
        };
        self.protocol_errors.get_or_create(&labels).inc();
    }

    /// Counts a connection that is passed through.
    pub fn passed_through(&self, reason: PassthroughReason) {
        let labels = PassthroughLabels { reason };
        self.passthrough.get_or_create(&labels).inc();
    }

    /// Counts a mirrored request.
    pub fn mirrored(&self, result: MirrorResult) {
        self.mirrored.get_or_create(&MirrorLabels { result }).inc();
    }

    /// Counts a request that an external server was asked about.
    pub fn checked_externally(&self, direction: Direction, result: AuthResult) {
        let labels = AuthLabels { direction, result };
        self.external_auth.get_or_create(&labels).inc();
    }

    /// Counts a fault that a FaultFilter injects.
    pub fn injected(&self, direction: Direction, fault: InjectedFault) {
        let labels = FaultLabels { direction, fault };
        self.faults.get_or_create(&labels).inc();
    }

    /// Counts what is turned away because of a limit.
    pub fn shed(&self, limit: ErrorType) {
        let labels = ErrorLabels { error_type: limit };
        self.shed.get_or_create(&labels).inc();
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
