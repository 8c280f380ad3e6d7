//! Medians over the rounds, ratios to the peers, as a table and as `results.json`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// One row: a metric, its unit, and the subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) row: String,
    pub(crate) subject: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) ratio_to_envoy: Option<f64>,
    pub(crate) ratio_to_haproxy: Option<f64>,
}

/// The values of every round by metric and subject, in order of insertion.
#[derive(Default)]
pub(crate) struct Figures {
    order: Vec<(&'static str, &'static str)>,
    values: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

impl Figures {
    pub(crate) fn add(
        &mut self,
        row: &'static str,
        unit: &'static str,
        subject: &'static str,
        value: f64,
    ) {
        if !self.order.contains(&(row, unit)) {
            self.order.push((row, unit));
        }
        self.values.entry((row, subject)).or_default().push(value);
    }

    /// Returns a row for each metric and subject: the median, and its ratio to the peers' medians.
    pub(crate) fn rows(&self, subjects: &[&'static str]) -> Vec<Row> {
        let mut rows = Vec::new();
        for &(row, unit) in &self.order {
            let value = |subject| {
                self.values
                    .get(&(row, subject))
                    .map(|values| median(values))
            };
            for &subject in subjects {
                let Some(own) = value(subject) else { continue };
                let ratio_to = |peer| {
                    value(peer)
                        .filter(|peer| *peer != 0.0)
                        .map(|peer| own / peer)
                };
                rows.push(Row {
                    row: row.to_owned(),
                    subject: subject.to_owned(),
                    value: own,
                    unit,
                    ratio_to_envoy: ratio_to("envoy"),
                    ratio_to_haproxy: ratio_to("haproxy"),
                });
            }
        }
        rows
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints the table and writes the rows as JSON to `path`.
pub(crate) fn publish(rows: &[Row], path: &Path) -> anyhow::Result<()> {
    println!(
        "{:<34} {:<10} {:>12} {:<12} {:>9} {:>10}",
        "row", "subject", "median", "unit", "/ envoy", "/ haproxy"
    );
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    for row in rows {
        println!(
            "{:<34} {:<10} {:>12.1} {:<12} {:>9} {:>10}",
            row.row,
            row.subject,
            row.value,
            row.unit,
            ratio(row.ratio_to_envoy),
            ratio(row.ratio_to_haproxy)
        );
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(rows)?)
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_medians_and_ratios() {
        let mut figures = Figures::default();
        for (subject, values) in [("envoy", [4.0, 2.0, 9.0]), ("weft", [1.0, 3.0, 2.0])] {
            values
                .into_iter()
                .for_each(|value| figures.add("cpu", "us", subject, value));
        }
        let rows = figures.rows(&["direct", "weft", "envoy"]);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (
                rows[0].value,
                rows[0].ratio_to_envoy,
                rows[0].ratio_to_haproxy
            ),
            (2.0, Some(0.5), None)
        );
    }
}
