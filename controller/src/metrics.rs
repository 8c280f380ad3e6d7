//! Metrics of both commands. Labels are bounded: kinds and results, never names of users' objects.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use weft_process::ProcessCollector;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFetch {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeySets {
    state: &'static str,
}

/// Metrics that both commands have: of their watches and their elections.
#[derive(Debug)]
pub struct ClusterMetrics {
    /// 1 while this replica leads.
    pub leader: Gauge,
    unreadable_objects: Family<Kind, Counter>,
    watch_errors: Family<Kind, Counter>,
}

impl ClusterMetrics {
    /// Registers the metrics under `weft_<component>_`, and those of the process itself.
    pub fn register(registry: &mut Registry, component: &'static str) -> Self {
        registry.register_collector(Box::new(ProcessCollector::new(component)));
        let registry = registry.sub_registry_with_prefix(format!("weft_{component}"));
        let metrics = Self {
            leader: Gauge::default(),
            unreadable_objects: Family::default(),
            watch_errors: Family::default(),
        };
        let help = "1 while this replica is the leader";
        registry.register("leader", help, metrics.leader.clone());
        let help = "Objects skipped because they could not be read";
        registry.register(
            "unreadable_objects",
            help,
            metrics.unreadable_objects.clone(),
        );
        let help = "Interruptions of watches";
        registry.register("watch_errors", help, metrics.watch_errors.clone());
        metrics
    }

    pub fn unreadable_object(&self, kind: &str) {
        Self::count(&self.unreadable_objects, kind);
    }

    pub fn watch_error(&self, kind: &str) {
        Self::count(&self.watch_errors, kind);
    }

    fn count(family: &Family<Kind, Counter>, kind: &str) {
        let kind = kind.to_owned();
        family.get_or_create(&Kind { kind }).inc();
    }
}

/// Metrics of the provisioner.
#[derive(Debug)]
pub struct ProvisionerMetrics {
    /// Objects applied, whether that changed them or not.
    pub writes: Counter,
    pub errors: Counter,
}

impl ProvisionerMetrics {
    /// Registers the metrics under `weft_provisioner_`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("weft_provisioner");
        let metrics = Self {
            writes: Counter::default(),
            errors: Counter::default(),
        };
        let help = "Objects of Gateways applied";
        registry.register("writes", help, metrics.writes.clone());
        let help =
            "Gateways that lack an object that they run on, counted whenever the cause changes";
        registry.register("errors", help, metrics.errors.clone());
        metrics
    }
}

/// Metrics of translation, of the streams of proxies and of statuses.
#[derive(Debug)]
pub struct Metrics {
    /// Open streams of proxies.
    pub streams: Gauge,
    /// Addresses that open streams watch, in total.
    pub watched_addresses: Gauge,
    pub updates: Counter,
    pub nacks: Counter,
    /// Resources that were too large to be sent.
    pub withheld: Counter,
    /// Streams ended because of what the proxy sent.
    pub refused_streams: Counter,
    pub snapshots: Counter,
    pub translate_seconds: Histogram,
    pub status_writes: Counter,
    pub status_errors: Counter,
    key_fetches: Family<KeyFetch, Counter>,
    key_sets: Family<KeySets, Gauge>,
}

/// The key sets of token issuers that policies name, as the leader knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySetCounts {
    /// Fetched by the last attempt.
    pub current: usize,
    /// Fetched earlier, and in use: the last attempt failed.
    pub stale: usize,
    /// Never fetched: tokens of these issuers are refused.
    pub absent: usize,
}

impl Metrics {
    /// Registers the metrics under `weft_controller_`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("weft_controller");
        let metrics = Self {
            streams: Gauge::default(),
            watched_addresses: Gauge::default(),
            updates: Counter::default(),
            nacks: Counter::default(),
            withheld: Counter::default(),
            refused_streams: Counter::default(),
            snapshots: Counter::default(),
            translate_seconds: Histogram::new(exponential_buckets(0.000_25, 4.0, 9)),
            status_writes: Counter::default(),
            status_errors: Counter::default(),
            key_fetches: Family::default(),
            key_sets: Family::default(),
        };
        metrics.enter(registry);
        metrics
    }

    fn enter(&self, to: &mut Registry) {
        to.register("streams", "Open streams of proxies", self.streams.clone());
        let help = "Addresses watched by all open streams";
        to.register("watched_addresses", help, self.watched_addresses.clone());
        to.register("updates", "Updates sent to proxies", self.updates.clone());
        let help = "Resources that proxies rejected";
        to.register("nacks", help, self.nacks.clone());
        let help = "Resources that were not sent to a proxy because they are too large";
        to.register("withheld", help, self.withheld.clone());
        let help = "Streams ended because of what the proxy sent";
        to.register("refused_streams", help, self.refused_streams.clone());
        let help = "Snapshots translated and published";
        to.register("snapshots", help, self.snapshots.clone());
        let help = "Duration of one translation of the cluster";
        to.register("translate_seconds", help, self.translate_seconds.clone());
        let help = "Statuses written";
        to.register("status_writes", help, self.status_writes.clone());
        let help = "Failed attempts to write a status";
        to.register("status_errors", help, self.status_errors.clone());
        let help = "Attempts to fetch the key set of a token issuer";
        to.register("key_fetches", help, self.key_fetches.clone());
        let help = "Key sets of token issuers, on the leader";
        to.register("key_sets", help, self.key_sets.clone());
    }

    /// Counts an attempt to fetch a key set. `result`: `success`, or the class of the error.
    pub fn key_fetch(&self, result: &'static str) {
        self.key_fetches.get_or_create(&KeyFetch { result }).inc();
    }

    pub fn set_key_sets(&self, counts: KeySetCounts) {
        let KeySetCounts {
            current,
            stale,
            absent,
        } = counts;
        for (state, count) in [("current", current), ("stale", stale), ("absent", absent)] {
            let gauge = self.key_sets.get_or_create(&KeySets { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_the_counts_and_the_memory() {
        let mut registry = Registry::default();
        let cluster = ClusterMetrics::register(&mut registry, "controller");
        let metrics = Metrics::register(&mut registry);
        metrics.nacks.inc();
        cluster.unreadable_object("HTTPRoute");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("\nweft_controller_nacks_total 1\n"), "{text}");
        let skipped = "\nweft_controller_unreadable_objects_total{kind=\"HTTPRoute\"} 1\n";
        assert!(text.contains(skipped), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }
}
