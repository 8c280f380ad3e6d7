//! Gauges of requests that wait for a place.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// Handles of what waits now.
#[derive(Clone, Debug)]
pub struct LimitMetrics {
    waiting: Family<LimitLabels, Gauge>,
    pub waiting_at_client: Gauge,
    pub waiting_at_server: Gauge,
}

impl Default for LimitMetrics {
    fn default() -> Self {
        let waiting = Family::<LimitLabels, Gauge>::default();
        let of = |limit| waiting.get_or_create_owned(&LimitLabels { limit });
        Self {
            waiting_at_client: of("client"),
            waiting_at_server: of("server"),
            waiting,
        }
    }
}

impl LimitMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_requests_waiting",
            "Requests that wait because a limit is reached",
            self.waiting.clone(),
        );
    }
}
