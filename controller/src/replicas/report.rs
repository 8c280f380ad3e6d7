//! The report of a replica on its proxies, as JSON in an annotation. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_ir::{PolicyId, RouteKind};
use weft_translate::TrafficPolicyId;

/// The maximum size of a report: the annotations of an object may have 256 KiB.
const MAX_BYTES: usize = 200 * 1024;
/// The maximum number of characters of a reason.
const MAX_REASON: usize = 128;

/// Counts of the proxies affected by a parent of a route, or by an authorization policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// Proxies at which the route's current rules are in force.
    #[serde(rename = "r")]
    pub ready: usize,
    #[serde(rename = "t")]
    pub total: usize,
    /// Proxies that rejected them.
    #[serde(rename = "n", skip_serializing_if = "is_zero")]
    pub refusing: usize,
    /// Why a resource was too large to be sent.
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// Pods of some of the proxies that rejected an authorization policy.
    #[serde(rename = "b", skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<String>,
}

/// The maximum number of names in [`Count::refused_by`].
pub const MAX_NAMES: usize = 5;

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Count {
    pub fn add(&mut self, other: &Self) {
        self.ready += other.ready;
        self.total += other.total;
        self.refusing += other.refusing;
        if self.withheld.is_none() {
            self.withheld.clone_from(&other.withheld);
        }
        let room = MAX_NAMES.saturating_sub(self.refused_by.len());
        let names = other.refused_by.iter().take(room);
        self.refused_by.extend(names.cloned());
    }
}

/// The counts of each parent, in the order of the route's status; a policy has one count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteCounts {
    /// The generation of the object.
    #[serde(rename = "g")]
    pub generation: i64,
    #[serde(rename = "p")]
    pub parents: Vec<Count>,
}

/// The report of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub streams: usize,
    /// By [`key`]; routes that affect no proxy are omitted.
    pub routes: BTreeMap<String, RouteCounts>,
    /// True if routes were omitted because of the report's size.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Returns an authorization policy's key in reports.
pub fn policy_key(policy: &PolicyId) -> String {
    let namespace = policy.namespace.as_deref().unwrap_or_default();
    format!("{}/{namespace}/{}", policy.kind(), policy.name)
}

/// Returns a traffic policy's key in reports.
pub fn traffic_key(policy: &TrafficPolicyId) -> String {
    format!("TrafficPolicy/{}/{}", policy.namespace, policy.name)
}

/// Returns a route's key in reports.
pub fn key(kind: RouteKind, namespace: &str, name: &str) -> String {
    format!("{kind:?}/{namespace}/{name}")
}

impl Report {
    /// Makes a report of bounded size: long reasons are truncated, and routes beyond the maximum
    /// omitted.
    pub fn bounded(streams: usize, routes: BTreeMap<String, RouteCounts>) -> Self {
        let mut report = Self {
            streams,
            ..Self::default()
        };
        let mut size = 0;
        for (key, mut counts) in routes {
            for reason in counts
                .parents
                .iter_mut()
                .filter_map(|one| one.withheld.as_mut())
            {
                *reason = reason.chars().take(MAX_REASON).collect();
            }
            size += key.len() + serde_json::to_string(&counts).map_or(0, |text| text.len()) + 4;
            if size > MAX_BYTES {
                report.partial = true;
                break;
            }
            report.routes.insert(key, counts);
        }
        report
    }
}

/// The reports of the other replicas, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others(pub BTreeMap<String, Report>);

impl Others {
    /// Returns the counts of the other replicas for a parent of a route. Proxies of a replica that
    /// has not seen the current generation count as pending.
    pub fn count(&self, key: &str, generation: i64, parent: usize) -> Count {
        let mut all = Count::default();
        for report in self.0.values() {
            let Some(route) = report.routes.get(key) else {
                continue;
            };
            match route.parents.get(parent) {
                Some(count) if route.generation == generation => all.add(count),
                Some(count) => all.total += count.total,
                None => {}
            }
        }
        all
    }

    /// Returns by how many streams a replica with `own` streams exceeds its share; 0 within the
    /// tolerance.
    pub fn surplus(&self, own: usize) -> usize {
        let all: usize = own + self.0.values().map(|report| report.streams).sum::<usize>();
        let share = all.div_ceil(self.0.len() + 1);
        let tolerated = share + share / 2 + 10;
        if own > tolerated { own - share } else { 0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn count(ready: usize, total: usize) -> Count {
        Count {
            ready,
            total,
            ..Count::default()
        }
    }

    fn report(generation: i64, parents: &[Count]) -> Report {
        let parents = parents.to_vec();
        let route = RouteCounts {
            generation,
            parents,
        };
        Report::bounded(7, [("Http/shop/r".to_owned(), route)].into())
    }

    fn others(reports: Vec<Report>) -> Others {
        Others((0..).map(|n| format!("c-{n}")).zip(reports).collect())
    }

    #[test]
    fn proxies_of_all_replicas_are_counted() {
        let first = report(3, &[count(2, 2), count(0, 1)]);
        let second = report(3, &[count(4, 5)]);
        let others = others(vec![first, second, Report::default()]);
        assert_eq!(others.count("Http/shop/r", 3, 0), count(6, 7));
        assert_eq!(others.count("Http/shop/r", 3, 1), count(0, 1));
        assert_eq!(others.count("Http/shop/other", 3, 0), count(0, 0));
    }

    #[test]
    fn report_on_another_generation_counts_as_pending() {
        let others = others(vec![report(2, &[count(5, 5)])]);
        assert_eq!(others.count("Http/shop/r", 3, 0), count(0, 5));
    }

    #[test]
    fn report_round_trips_and_is_bounded() {
        let refused = Count {
            refusing: 9,
            withheld: Some("x".repeat(10_000)),
            ..count(0, 9)
        };
        let text = serde_json::to_string(&report(3, &[refused, count(1, 1)])).unwrap();
        assert!(text.len() < 600, "{}", text.len());
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(read.streams, 7);
        assert_eq!(read.routes["Http/shop/r"].parents[1], count(1, 1));

        let many = (0..20_000).map(|n| {
            (
                key(RouteKind::Http, "shop", &format!("r-{n}")),
                RouteCounts {
                    generation: 1,
                    parents: vec![count(1, 1)],
                },
            )
        });
        let report = Report::bounded(1, many.collect());
        assert!(report.partial && report.routes.len() > 1_000);
        assert!(serde_json::to_string(&report).unwrap().len() < 256 * 1024);
    }

    #[test]
    fn replica_far_above_its_share_has_a_surplus() {
        let having = |streams: &[usize]| {
            others(
                streams
                    .iter()
                    .map(|streams| Report {
                        streams: *streams,
                        ..Report::default()
                    })
                    .collect(),
            )
        };
        assert_eq!(having(&[]).surplus(5_000), 0, "alone");
        assert_eq!(having(&[0, 0]).surplus(3_000), 2_000);
        assert_eq!(having(&[900, 900]).surplus(1_200), 0, "about right");
        assert_eq!(having(&[0, 0]).surplus(12), 0, "a few do not matter");
        assert_eq!(having(&[3_000, 0]).surplus(0), 0);
    }
}
