//! The report of a replica, as JSON in an annotation. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_ir::RouteKind;

/// Annotations of one object may have 256 KiB.
const LONGEST: usize = 200 * 1024;
/// Characters of a reason that are repeated in a report.
const REASON: usize = 128;

/// How many proxies are concerned by a parent of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// The route's present rules are in force there.
    #[serde(rename = "r")]
    pub ready: usize,
    #[serde(rename = "t")]
    pub total: usize,
    /// They refused them.
    #[serde(rename = "n", skip_serializing_if = "is_zero")]
    pub refusing: usize,
    /// Why it was not sent, in the controller's words.
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

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
    }
}

/// The counts of each parent, in the order of the route's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteCounts {
    /// The generation that they speak of.
    #[serde(rename = "g")]
    pub generation: i64,
    #[serde(rename = "p")]
    pub parents: Vec<Count>,
}

/// What one replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub streams: usize,
    /// By [`key`]; routes that no proxy is concerned by are left out.
    pub routes: BTreeMap<String, RouteCounts>,
    /// There was no room for all routes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// A route's name in reports.
pub fn key(kind: RouteKind, namespace: &str, name: &str) -> String {
    format!("{kind:?}/{namespace}/{name}")
}

impl Report {
    /// As it is written: with as many routes as there is room for, and no long reasons.
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
                *reason = reason.chars().take(REASON).collect();
            }
            size += key.len() + serde_json::to_string(&counts).map_or(0, |text| text.len()) + 4;
            if size > LONGEST {
                report.partial = true;
                break;
            }
            report.routes.insert(key, counts);
        }
        report
    }
}

/// What the other replicas say, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others(pub BTreeMap<String, Report>);

impl Others {
    /// The proxies of the others that are concerned by a parent of a route. Those of a replica that has not seen the
    /// route's present generation are behind.
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

    /// By how many streams a replica with `own` has more than its share; 0 where it is about right.
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
    fn the_proxies_of_all_replicas_are_counted() {
        let first = report(3, &[count(2, 2), count(0, 1)]);
        let second = report(3, &[count(4, 5)]);
        let others = others(vec![first, second, Report::default()]);
        assert_eq!(others.count("Http/shop/r", 3, 0), count(6, 7));
        assert_eq!(others.count("Http/shop/r", 3, 1), count(0, 1));
        assert_eq!(others.count("Http/shop/other", 3, 0), count(0, 0));
    }

    #[test]
    fn a_replica_that_is_behind_says_nothing_of_the_present_rules() {
        let others = others(vec![report(2, &[count(5, 5)])]);
        assert_eq!(others.count("Http/shop/r", 3, 0), count(0, 5));
    }

    #[test]
    fn a_report_reads_back_as_it_is_written_and_is_bounded() {
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
    fn a_replica_with_far_more_than_its_share_gives_some_away() {
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
