//! Counters of outlier detection.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Which failures in a row were too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutlierReason {
    ServerErrors,
    GatewayErrors,
}

impl OutlierReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::ServerErrors => "consecutive_5xx",
            Self::GatewayErrors => "consecutive_gateway_errors",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutlierLabels {
    reason: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct OutlierMetrics {
    ejections: Family<OutlierLabels, Counter>,
    /// Times that a cluster began to use all of its endpoints.
    pub panics: Counter,
}

impl OutlierMetrics {
    /// Counts an endpoint that failed too often: ejected, or kept because enough others are.
    pub fn detected(&self, reason: OutlierReason, ejected: bool) {
        let labels = OutlierLabels {
            reason: reason.as_str(),
            result: if ejected { "ejected" } else { "limit_reached" },
        };
        self.ejections.get_or_create(&labels).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_outlier_ejections",
            "Endpoints that failed too many requests in a row",
            self.ejections.clone(),
        );
        registry.register(
            "weft_outlier_panics",
            "Times that all endpoints were used because too few were healthy",
            self.panics.clone(),
        );
    }
}
