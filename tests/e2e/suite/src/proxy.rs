//! Access log and metrics of a pod's proxy.

use std::time::Duration;

use anyhow::Context;
use kube::api::LogParams;
use serde_json::Value;

use crate::TestNamespace;

/// An entry of the access log.
#[derive(Clone, Debug)]
pub struct Access(Value);

impl Access {
    /// Returns a field as text; empty if absent.
    pub fn text(&self, name: &str) -> String {
        match &self.0[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    pub fn is(&self, name: &str, value: &str) -> bool {
        self.text(name) == value
    }
}

impl TestNamespace {
    /// Returns the log of a container; `container` may be empty if the pod has only one.
    pub async fn log(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let parameters = LogParams {
            container: Some(container.to_owned()).filter(|name| !name.is_empty()),
            ..Default::default()
        };
        let log = self.pods().logs(pod, &parameters).await;
        log.with_context(|| format!("reading the log of pod {pod}, container {container:?}"))
    }

    /// Returns the access log of a pod, oldest entry first.
    pub async fn access_log(&self, pod: &str) -> anyhow::Result<Vec<Access>> {
        let log = self.log(pod, "weft-proxy").await?;
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines
            .filter(|line| line["direction"].is_string())
            .map(Access)
            .collect())
    }

    /// Returns the access log entries of one direction whose path starts with `path`; fails if
    /// there is none.
    pub async fn accesses(
        &self,
        pod: &str,
        direction: &str,
        path: &str,
    ) -> anyhow::Result<Vec<Access>> {
        let entries = self.access_log(pod).await?;
        let wanted = entries.iter().filter(|entry| {
            entry.is("direction", direction) && entry.text("path").starts_with(path)
        });
        let wanted: Vec<_> = wanted.cloned().collect();
        anyhow::ensure!(
            !wanted.is_empty(),
            "no {direction} request for {path} in {entries:?}"
        );
        Ok(wanted)
    }

    /// Returns the metrics page of a pod on port 15020, read through the API server, with
    /// everything that was counted before the call.
    pub async fn metrics(&self, pod: &str) -> anyhow::Result<String> {
        // The page is cached for a second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let path = format!(
            "/api/v1/namespaces/{}/pods/{pod}:15020/proxy/metrics",
            self.namespace
        );
        let request = http::Request::get(&path).body(Vec::new())?;
        self.client
            .request_text(request)
            .await
            .with_context(|| format!("reading {path}"))
    }

    /// Returns the sum of a metric over all series whose labels contain all of `labels`.
    pub async fn metric(&self, pod: &str, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        Ok(sum(&self.metrics(pod).await?, name, labels))
    }
}

/// Returns the sum of a metric over all series whose labels contain all of `labels`.
pub fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        let (series, value) = rest.rsplit_once(' ')?;
        let whole_name = series.is_empty() || series.starts_with('{');
        (whole_name && labels.iter().all(|label| series.contains(label)))
            .then(|| value.parse().ok())?
    };
    metrics.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_are_summed_by_label() {
        let metrics = "# HELP a b\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total_b 9\na_total 5\n";
        assert_eq!(sum(metrics, "a_total", &["x=\"1\""]), 7.0);
        assert_eq!(sum(metrics, "a_total", &[]), 12.0);
        assert_eq!(sum(metrics, "absent", &[]), 0.0);
    }
}
