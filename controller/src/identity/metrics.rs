//! Metrics of the certificate authority and of the server's connections. Labels come from fixed
//! lists, so that strangers cannot create series.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;

use super::trust::Phase;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Declares the values of a label.
macro_rules! label_values {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident { $($variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $($variant,)*
        }

        impl $name {
            fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}

label_values! {
    /// How a TLS handshake of the server ended.
    pub enum HandshakeResult {
        Ok = "ok",
        Failed = "failed",
    }
}

label_values! {
    /// How a write of a ConfigMap with the roots ended.
    pub(super) enum WriteResult {
        Ok = "ok",
        Error = "error",
    }
}

label_values! {
    /// What became of a requested rotation of the root.
    pub(crate) enum RotationStep {
        Started = "started",
        Refused = "refused",
        Completed = "completed",
    }
}

label_values! {
    /// A certificate whose expiry is a metric.
    pub(super) enum Expiring {
        Serving = "serving",
        Authority = "authority",
    }
}

/// Handles of the metrics; clones share their series.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    signed: Counter,
    refused: Family<Labels<1>, Counter>,
    handshakes: Family<Labels<2>, Counter>,
    protocol_errors: Family<Labels<2>, Counter>,
    secret_errors: Counter,
    root_writes: Family<Labels<1>, Counter>,
    expiry: Family<Labels<1>, Gauge>,
    rotations: Family<Labels<1>, Counter>,
    rotation_phase: Family<Labels<1>, Gauge>,
    rotation_proxies: Family<Labels<1>, Gauge>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_ca_signed",
            "Certificates signed for proxies",
            self.signed.clone(),
        );
        registry.register(
            "weft_ca_refused",
            "Signing requests rejected, by reason",
            self.refused.clone(),
        );
        registry.register(
            "weft_tls_handshakes",
            "TLS handshakes, by result",
            self.handshakes.clone(),
        );
        registry.register(
            "weft_protocol_errors",
            "Connections closed because of what was sent on them",
            self.protocol_errors.clone(),
        );
        registry.register(
            "weft_ca_secret_errors",
            "Failures to load or use the Secret of the root",
            self.secret_errors.clone(),
        );
        registry.register(
            "weft_ca_root_writes",
            "Writes of the ConfigMap with the roots, by result",
            self.root_writes.clone(),
        );
        registry.register(
            "weft_certificate_expiry_timestamp_seconds",
            "When a certificate expires, in Unix time",
            self.expiry.clone(),
        );
        registry.register(
            "weft_ca_rotations",
            "Rotations of the root, by result",
            self.rotations.clone(),
        );
        registry.register(
            "weft_ca_rotation_phase",
            "On the leader, 1 for the current phase of the rotation of the root",
            self.rotation_phase.clone(),
        );
        registry.register(
            "weft_ca_rotation_proxies",
            "On the leader, proxies that have completed the phase, and all proxies",
            self.rotation_proxies.clone(),
        );
    }

    pub(super) fn signed(&self) {
        self.signed.inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Returns the count of rejections for a reason.
    pub fn refusals(&self, reason: &'static str) -> u64 {
        self.refused.get_or_create(&[("reason", reason)]).get()
    }

    pub(crate) fn handshake(&self, result: HandshakeResult) {
        self.handshakes
            .get_or_create(&[("direction", "inbound"), ("result", result.label())])
            .inc();
    }

    /// Returns the count of handshakes with a result.
    pub fn handshakes(&self, result: HandshakeResult) -> u64 {
        self.handshakes
            .get_or_create(&[("direction", "inbound"), ("result", result.label())])
            .get()
    }

    pub(crate) fn protocol_error(&self, error_type: &'static str) {
        self.protocol_errors
            .get_or_create(&[("listener", "grpc"), ("error_type", error_type)])
            .inc();
    }

    pub(super) fn secret_error(&self) {
        self.secret_errors.inc();
    }

    pub(super) fn root_write(&self, result: WriteResult) {
        let labels = [("result", result.label())];
        self.root_writes.get_or_create(&labels).inc();
    }

    pub(crate) fn rotation(&self, step: RotationStep) {
        let labels = [("result", step.label())];
        self.rotations.get_or_create(&labels).inc();
    }

    pub(crate) fn rotation_phase(&self, now: &Phase) {
        for phase in Phase::NAMES {
            let gauge = self.rotation_phase.get_or_create(&[("phase", phase)]);
            gauge.set(i64::from(phase == now.name()));
        }
    }

    pub(crate) fn rotation_proxies(&self, done: usize, of: usize) {
        for (state, count) in [("done", done), ("all", of)] {
            let gauge = self.rotation_proxies.get_or_create(&[("state", state)]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn expires(&self, certificate: Expiring, at: OffsetDateTime) {
        self.expiry
            .get_or_create(&[("certificate", certificate.label())])
            .set(at.unix_timestamp());
    }
}
