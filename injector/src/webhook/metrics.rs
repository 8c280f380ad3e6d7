//! The metrics of the webhook, in the text format of OpenMetrics.

use std::fmt::{self, Write as _};
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use weft_process::ProcessCollector;

/// The result of a request to the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Injected,
    Skipped,
    Denied,
    /// Not the creation of a pod; allowed unchanged.
    Ignored,
    /// Not an AdmissionReview, or too large.
    Malformed,
    /// The namespace could not be read.
    Failed,
}

impl EncodeLabelValue for Answer {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Injected => "injected",
            Self::Skipped => "skipped",
            Self::Denied => "refused",
            Self::Ignored => "ignored",
            Self::Malformed => "malformed",
            Self::Failed => "failed",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Result {
    result: Answer,
}

impl From<Answer> for Result {
    fn from(result: Answer) -> Self {
        Self { result }
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    /// Connections that were closed in favour of others.
    pub(super) rejected: weft_accept::Metrics,
    pub(super) requests: Family<Result, Counter>,
    /// Seconds.
    pub(super) duration: Histogram,
    pub(super) handshake_failures: Counter,
    pub(super) keeper_failures: Counter,
    pub(super) client_ca_failures: Counter,
    /// Unix time.
    pub(super) certificate_expiry: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(ProcessCollector::new("injector")));
        let rejected = weft_accept::Metrics::default();
        rejected.register(&mut all);
        let registry = all.sub_registry_with_prefix("weft_injector");
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests to the webhook, by result",
            requests.clone(),
        );
        let duration = Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0]);
        registry.register_with_unit(
            "request_duration",
            "Time from a complete request to its answer",
            Unit::Seconds,
            duration.clone(),
        );
        let handshake_failures = Counter::<u64, AtomicU64>::default();
        registry.register(
            "tls_handshake_failures",
            "Connections to the webhook that failed before a request",
            handshake_failures.clone(),
        );
        let keeper_failures = Counter::<u64, AtomicU64>::default();
        registry.register(
            "certificate_failures",
            "Failed attempts to keep the certificate and the caBundle",
            keeper_failures.clone(),
        );
        let client_ca_failures = Counter::<u64, AtomicU64>::default();
        registry.register(
            "client_ca_failures",
            "Failed attempts to read the CA bundle of API servers",
            client_ca_failures.clone(),
        );
        let certificate_expiry = Gauge::default();
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the served certificate expires",
            certificate_expiry.clone(),
        );
        Self {
            registry: all,
            rejected,
            requests,
            duration,
            handshake_failures,
            keeper_failures,
            client_ca_failures,
            certificate_expiry,
        }
    }
}

impl Metrics {
    pub(super) fn write(&self, text: &mut String) -> fmt::Result {
        encode(text, &self.registry)
    }
}
