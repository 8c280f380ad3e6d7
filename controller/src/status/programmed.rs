//! The condition `weft.dev/Programmed`: at how many of the affected proxies a route's current rules
//! are in force.
//!
//! Answers of proxies reach the replica that they are connected to; the one that writes statuses
//! adds the reports of the others to its own tally.

mod authorizations;
mod traffic;

pub(crate) use authorizations::authorizations;
pub(crate) use traffic::traffic;

use weft_translate::{AncestorStatus, Condition, Controller, RouteStatus};

use crate::replicas::tally::own_counts;
use crate::replicas::{Count, Others, report};
use crate::snapshot::Snapshot;
use crate::subscribe::Registry;

const TYPE: &str = "weft.dev/Programmed";
/// The reason for False after a rejection, which is written at once.
const REFUSED: &str = "Refused";
/// The reason for False while proxies have not answered yet.
const PENDING: &str = "Pending";
/// One of this many proxies of the mesh may lag or reject without setting the condition to False:
/// no single proxy decides the status of a route that many use.
const PROXIES_PER_OUTLIER: usize = 10;

/// Returns the statuses of a snapshot with the condition added to each parent that accepted its
/// route.
pub(crate) fn statuses(
    snapshot: &Snapshot,
    registry: &Registry,
    others: &Others,
) -> Vec<RouteStatus> {
    let counts = own_counts(snapshot, registry);
    let mut statuses: Vec<RouteStatus> = snapshot
        .statuses
        .iter()
        .map(|of| of.as_ref().clone())
        .collect();
    for (status, counts) in statuses.iter_mut().zip(counts) {
        let key = report::key(status.kind, &status.namespace, &status.name);
        for (place, (parent, own)) in status.parents.iter_mut().zip(counts).enumerate() {
            let Some(mut count) = own else {
                continue;
            };
            count.add(&others.count(&key, status.generation, place));
            let (outliers, none) = match parent.controller {
                Controller::Mesh => (
                    count.total / PROXIES_PER_OUTLIER,
                    "no connected proxy watches the parent yet",
                ),
                Controller::Gateway => (0, "no proxy of the Gateway is connected"),
            };
            parent.conditions.push(condition(&count, outliers, none));
        }
    }
    statuses
}

/// Returns true if a proxy rejected a rule.
pub(super) fn is_urgent(conditions: &[Condition]) -> bool {
    let refused = |one: &Condition| one.kind == TYPE && one.reason == REFUSED;
    conditions.iter().any(refused)
}

/// Returns true if the condition's message is a count of proxies.
pub(super) fn counts_proxies(condition: &Condition) -> bool {
    condition.kind == TYPE
}

/// Returns true if proxies have not answered yet.
pub(super) fn is_pending(conditions: &[Condition]) -> bool {
    let pending = |one: &Condition| one.kind == TYPE && one.reason == PENDING;
    conditions.iter().any(pending)
}

/// Adds the condition to each target for which the policy is accepted.
fn add(ancestors: &mut [AncestorStatus], programmed: &Condition) {
    let accepted = |one: &Condition| one.kind == "Accepted" && one.status;
    for ancestor in ancestors {
        if ancestor.conditions.iter().any(accepted) {
            ancestor.conditions.push(programmed.clone());
        }
    }
}

/// Makes the condition: `outliers` proxies may lag or reject; `none` is the message if no proxy is
/// affected. The proxies' reasons are in the controllers' logs only.
fn condition(count: &Count, outliers: usize, none: &str) -> Condition {
    let Count {
        ready,
        total,
        refusing,
        ref withheld,
        ref refused_by,
    } = *count;
    let mut message = format!("{ready} of {total} proxies connected");
    if refusing > 0 {
        let named = match &refused_by[..] {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        message +=
            &format!("; rejected by {refusing}{named}: the reasons are in the controller's log");
    }
    if let Some(reason) = withheld {
        message += &format!("; {reason}");
    }
    let enough = ready + outliers >= total;
    let reason = match total {
        0 => {
            message = none.to_owned();
            "NoProxies"
        }
        _ if enough => "Programmed",
        _ if refusing > 0 || withheld.is_some() => REFUSED,
        _ => PENDING,
    };
    Condition {
        kind: TYPE.to_owned(),
        status: enough,
        reason: reason.to_owned(),
        message,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use weft_ir::ResourceKey;
    use weft_translate::{Objects, translate};

    use super::*;
    use crate::encoder::Source;
    use crate::replicas::Report;
    use crate::replicas::tally::{Proxies, ProxyState, count, counts};
    use crate::snapshot::test_settings;
    use crate::subscribe::registry::StreamHandle;
    use crate::subscribe::session::Acked;
    use crate::watch::ObjectKey;

    const ADDRESS: &str = "10.96.0.10:80";

    /// The Service shop/reviews with an HTTPRoute.
    fn snapshot() -> Snapshot {
        let service = json!({
            "metadata": {"name": "reviews", "namespace": "shop"},
            "spec": {
                "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                "ports": [{"name": "http", "port": 80}, {"name": "more", "port": 81}],
            },
        });
        let parents = json!([
            {"group": "", "kind": "Service", "name": "reviews", "port": 80},
            {"group": "", "kind": "Service", "name": "reviews", "port": 81},
            {"group": "", "kind": "Service", "name": "absent"},
        ]);
        let route = json!({
            "metadata": {"name": "r", "namespace": "shop", "generation": 3},
            "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "reviews", "port": 80}]}]},
        });
        let objects = Objects {
            services: vec![Arc::new(serde_json::from_value(service).unwrap())],
            http_routes: vec![Arc::new(serde_json::from_value(route).unwrap())],
            ..Objects::default()
        };
        Snapshot::new(translate(&objects, &test_settings()))
    }

    fn key() -> ResourceKey {
        ResourceKey::Destination(ADDRESS.parse().unwrap())
    }

    fn stream(registry: &Registry, pod: &str, version: u64) -> StreamHandle {
        let pod = ObjectKey::new("shop", pod);
        registry.register(pod, &[(key(), version)], 9)
    }

    /// Returns the condition of each parent as reason and message; `None` if there is none.
    fn said(snapshot: &Snapshot, registry: &Registry) -> Vec<Option<(String, String)>> {
        let status = statuses(snapshot, registry, &Others::default()).remove(0);
        let parents = status.parents.into_iter().map(|parent| {
            let mut conditions = parent.conditions.into_iter();
            let condition = conditions.find(|one| one.kind == TYPE)?;
            let message = condition.message.split(" proxies").next()?.to_owned();
            Some((condition.reason, message))
        });
        parents.collect()
    }

    #[test]
    fn parent_counts_proxies_that_hold_its_destinations() {
        let (snapshot, registry) = (snapshot(), Registry::default());
        let version = snapshot
            .encoder
            .destination(ADDRESS.parse().unwrap(), "shop")
            .resource
            .version;
        let pair = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
        let none = || {
            let message = "no connected proxy watches the parent yet";
            pair("NoProxies", message)
        };
        assert_eq!(said(&snapshot, &registry), [none(), none(), None]);

        let _current = stream(&registry, "web-0", version);
        let old = stream(&registry, "web-1", version ^ 1);
        assert_eq!(
            said(&snapshot, &registry),
            [pair("Pending", "1 of 2"), none(), None]
        );
        old.sent(std::iter::once((key(), version)));
        old.record(Acked {
            refused: vec![(key(), version, "no".to_owned())],
            ..Acked::default()
        });
        assert_eq!(
            said(&snapshot, &registry),
            [pair("Refused", "1 of 2"), none(), None]
        );
        old.record(Acked {
            in_force: vec![(key(), Some(version))],
            ..Acked::default()
        });
        assert_eq!(
            said(&snapshot, &registry),
            [pair("Programmed", "2 of 2"), none(), None]
        );
        let fresh = registry.register(ObjectKey::new("shop", "web-2"), &[], 9);
        fresh.sent(std::iter::once((key(), version)));
        assert_eq!(
            said(&snapshot, &registry),
            [pair("Pending", "2 of 3"), none(), None]
        );
        drop((old, fresh));
        assert_eq!(
            said(&snapshot, &registry),
            [pair("Programmed", "1 of 1"), none(), None]
        );
    }

    #[test]
    fn proxies_of_other_replicas_are_counted() {
        let (snapshot, here, there) = (snapshot(), Registry::default(), Registry::default());
        let address = ADDRESS.parse().unwrap();
        let version = snapshot
            .encoder
            .destination(address, "shop")
            .resource
            .version;
        let report = |registry: &Registry| {
            let report = Report::bounded(registry.streams(), counts(&snapshot, registry));
            Others([("c-1".to_owned(), report)].into())
        };
        let said = |others: &Others| {
            let status = statuses(&snapshot, &here, others).remove(0);
            let mut conditions = status.parents[0].conditions.iter();
            let condition = conditions.find(|one| one.kind == TYPE).unwrap();
            (condition.reason.clone(), condition.message.clone())
        };
        let pair = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        let _first = stream(&there, "web-0", version);
        // None of them is connected to the one that writes.
        let others = report(&there);
        assert_eq!(
            said(&others),
            pair("Programmed", "1 of 1 proxies connected")
        );
        let _second = stream(&there, "web-1", version ^ 1);
        let _own = stream(&here, "web-2", version);
        let others = report(&there);
        assert_eq!(said(&others), pair("Pending", "2 of 3 proxies connected"));
    }

    fn proxies(states: &[ProxyState]) -> Proxies {
        let names = (0..).map(|n| ObjectKey::new("shop", format!("web-{n}")));
        names.zip(states.iter().cloned()).collect()
    }

    #[test]
    fn condition_has_counts_and_reasons() {
        use ProxyState::{Behind, InForce, Refused, Withheld};
        let of = |many: usize, then: &[ProxyState]| {
            let mut all = vec![InForce; many];
            all.extend_from_slice(then);
            all
        };
        for (states, status, reason, message) in [
            (
                vec![],
                true,
                "NoProxies",
                "no connected proxy watches the parent yet",
            ),
            (
                of(12, &[]),
                true,
                "Programmed",
                "12 of 12 proxies connected",
            ),
            (
                of(1, &[Behind]),
                false,
                "Pending",
                "1 of 2 proxies connected",
            ),
            (
                of(1, &[Refused]),
                false,
                "Refused",
                "1 of 2 proxies connected; rejected by 1: the reasons are in the controller's log",
            ),
            (
                of(0, &[Refused, Refused, Behind]),
                false,
                "Refused",
                "0 of 3 proxies connected; rejected by 2: the reasons are in the controller's log",
            ),
            (
                of(1, &[Withheld("not sent: too large".to_owned())]),
                false,
                "Refused",
                "1 of 2 proxies connected; not sent: too large",
            ),
            // One of ten decides nothing alone, two do.
            (
                of(9, &[Refused]),
                true,
                "Programmed",
                "9 of 10 proxies connected; rejected by 1: the reasons are in the controller's log",
            ),
            (
                of(9, &[Behind]),
                true,
                "Programmed",
                "9 of 10 proxies connected",
            ),
            (
                of(8, &[Behind, Behind]),
                false,
                "Pending",
                "8 of 10 proxies connected",
            ),
        ] {
            let none = "no connected proxy watches the parent yet";
            let outliers = states.len() / PROXIES_PER_OUTLIER;
            let condition = condition(&count(&proxies(&states)), outliers, none);
            let is = (condition.status, &*condition.reason, &*condition.message);
            assert_eq!(is, (status, reason, message));
        }
    }
}
