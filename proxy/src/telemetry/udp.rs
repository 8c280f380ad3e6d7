//! Counters of datagrams.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::error_type::ErrorType;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabels {
    way: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error_type: ErrorType,
}

/// Sessions and datagrams of all of a gateway's ports of UDP.
#[derive(Clone, Debug)]
pub struct UdpMetrics {
    sessions: Counter,
    /// Sessions that have not ended.
    pub open: Gauge,
    /// Datagrams passed on.
    pub to_server: Counter,
    pub to_client: Counter,
    datagrams: Family<WayLabels, Counter>,
    dropped: Family<ErrorLabels, Counter>,
}

impl Default for UdpMetrics {
    fn default() -> Self {
        let datagrams = Family::<WayLabels, Counter>::default();
        let handle = |way| datagrams.get_or_create_owned(&WayLabels { way });
        Self {
            sessions: Counter::default(),
            open: Gauge::default(),
            to_server: handle("to_server"),
            to_client: handle("to_client"),
            datagrams,
            dropped: Family::default(),
        }
    }
}

impl UdpMetrics {
    /// Counts a session, which is open from here on.
    pub fn session_started(&self) {
        self.sessions.inc();
        self.open.inc();
    }

    /// Counts a datagram that is not passed on.
    pub fn dropped(&self, error_type: ErrorType) {
        self.dropped
            .get_or_create(&ErrorLabels { error_type })
            .inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let words = "Sessions of UDP begun";
        registry.register("weft_udp_sessions", words, self.sessions.clone());
        let words = "Sessions of UDP open now";
        registry.register("weft_udp_sessions_open", words, self.open.clone());
        registry.register(
            "weft_udp_datagrams",
            "Datagrams passed on",
            self.datagrams.clone(),
        );
        let words = "Datagrams not passed on";
        registry.register("weft_udp_dropped", words, self.dropped.clone());
    }
}
