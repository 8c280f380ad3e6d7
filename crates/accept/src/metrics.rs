//! Metrics of connections that were closed by limits. Label values come from fixed lists.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 2];

/// One counter for all ports of a program. Clones share the same series.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    rejected: Family<Labels, Counter>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_connections_rejected",
            "Connections closed by connection limits or for inactivity",
            self.rejected.clone(),
        );
    }

    pub(crate) fn rejected(&self, listener: &'static str, reason: &'static str) {
        let labels = [("listener", listener), ("reason", reason)];
        self.rejected.get_or_create(&labels).inc();
    }

    /// Returns the count of a reason.
    pub fn count(&self, listener: &'static str, reason: &'static str) -> u64 {
        let labels = [("listener", listener), ("reason", reason)];
        self.rejected.get_or_create(&labels).get()
    }
}
