//! The condition `weft.dev/Programmed` of traffic policies.

use weft_translate::TrafficPolicyStatus;

use super::{PROXIES_PER_OUTLIER, add, condition};
use crate::replicas::tally::traffic::own_counts;
use crate::replicas::{Others, report};
use crate::snapshot::Snapshot;
use crate::subscribe::Registry;

/// Returns the statuses of a snapshot with the condition added to each target for which its policy
/// is accepted. The counts are of all targets.
pub(crate) fn traffic(
    snapshot: &Snapshot,
    registry: &Registry,
    others: &Others,
) -> Vec<TrafficPolicyStatus> {
    let counts = own_counts(snapshot, registry);
    let statuses = snapshot.traffic.iter().map(|status| {
        let mut status = status.clone();
        let mut count = counts.get(&status.id).cloned().unwrap_or_default();
        let key = report::traffic_key(&status.id);
        count.add(&others.count(&key, status.generation, 0));
        let outliers = count.total / PROXIES_PER_OUTLIER;
        let none = "no connected proxy sends to the targets yet";
        let programmed = condition(&count, outliers, none);
        add(&mut status.ancestors, &programmed);
        status
    });
    statuses.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use weft_ir::ResourceKey;
    use weft_translate::{Objects, translate};

    use super::*;
    use crate::replicas::Report;
    use crate::replicas::tally::counts;
    use crate::snapshot::test_settings;
    use crate::subscribe::registry::StreamHandle;
    use crate::subscribe::session::Acked;
    use crate::watch::ObjectKey;

    /// The Service shop/web with a policy, and a policy on nothing.
    fn snapshot() -> Snapshot {
        let service = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIPs": ["10.96.0.10"], "ports": [{"name": "http", "port": 80}]},
        });
        let policy = |name: &str| {
            let policy = json!({
                "metadata": {"name": name, "namespace": "shop", "generation": 3},
                "spec": {
                    "targetRefs": [{"kind": "Service", "name": name}],
                    "defaults": {"outlierDetection": {"consecutive5xx": 5}},
                },
            });
            Arc::new(serde_json::from_value(policy).unwrap())
        };
        let objects = Objects {
            services: vec![Arc::new(serde_json::from_value(service).unwrap())],
            traffic_policies: vec![policy("web"), policy("gone")],
            ..Objects::default()
        };
        Snapshot::new(translate(&objects, &test_settings()))
    }

    fn key() -> ResourceKey {
        ResourceKey::Endpoints("shop/web:80".parse().unwrap())
    }

    fn version(snapshot: &Snapshot) -> u64 {
        let id = "shop/web:80".parse().unwrap();
        snapshot.encoder.versions(&id).next().unwrap()
    }

    fn stream(registry: &Registry, pod: &str, version: u64) -> StreamHandle {
        registry.register(ObjectKey::new("shop", pod), &[(key(), version)], 9)
    }

    fn said(snapshot: &Snapshot, registry: &Registry, others: &Others) -> (String, String) {
        let statuses = traffic(snapshot, registry, others);
        // A policy that is not accepted is not counted.
        assert_eq!(&*statuses[0].id.name, "gone");
        assert_eq!(statuses[0].ancestors[0].conditions.len(), 1);
        let condition = statuses[1].ancestors[0].conditions[1].clone();
        (condition.reason, condition.message)
    }

    fn pair(reason: &str, message: &str) -> (String, String) {
        (reason.to_owned(), message.to_owned())
    }

    #[test]
    fn policy_counts_the_proxies_that_hold_its_endpoints() {
        let (snapshot, registry) = (snapshot(), Registry::default());
        let others = Others::default();
        let none = pair("NoProxies", "no connected proxy sends to the targets yet");
        assert_eq!(said(&snapshot, &registry, &others), none);
        let _other = registry.register(ObjectKey::new("shop", "db-0"), &[], 9);
        assert_eq!(said(&snapshot, &registry, &others), none);
        let now = version(&snapshot);
        let _current = stream(&registry, "web-0", now);
        let old = stream(&registry, "web-1", now ^ 1);
        let pending = pair("Pending", "1 of 2 proxies connected");
        assert_eq!(said(&snapshot, &registry, &others), pending);
        let mut notified = registry.destination_changes();
        notified.mark_unchanged();
        old.record(Acked {
            in_force: vec![(key(), Some(now))],
            ..Acked::default()
        });
        let all = pair("Programmed", "2 of 2 proxies connected");
        assert_eq!(said(&snapshot, &registry, &others), all);
        assert!(
            notified.has_changed().unwrap(),
            "the status has to be written"
        );
    }

    #[test]
    fn proxies_of_other_replicas_are_counted() {
        let (snapshot, here, there) = (snapshot(), Registry::default(), Registry::default());
        let now = version(&snapshot);
        let _here = stream(&here, "web-0", now);
        let _remote = stream(&there, "web-1", now ^ 1);
        let report = Report::bounded(1, counts(&snapshot, &there));
        let text = serde_json::to_string(&report).unwrap();
        let others = Others([("c-1".to_owned(), serde_json::from_str(&text).unwrap())].into());
        let pending = pair("Pending", "1 of 2 proxies connected");
        assert_eq!(said(&snapshot, &here, &others), pending);
    }
}
