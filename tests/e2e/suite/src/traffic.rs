//! Traffic while a test changes things: 500 requests a second over HTTP/1.1 with kept and with
//! fresh connections, HTTP/2 and gRPC streams. Requests are started when due, regardless of the
//! earlier ones. `WEFT_E2E_RATE` is the percentage of this rate that the machine can sustain if it
//! is not 100, such as with debug builds.

use std::fmt;

use anyhow::Context;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::host::in_url;
use crate::load::Load;
use crate::{Summary, TestNamespace, objects};

/// A kind of requests: its name, expected code, rate per second, port, and arguments of `weft-shop
/// load`.
struct Kind {
    name: &'static str,
    code: &'static str,
    rate: u32,
    port: u16,
    arguments: &'static [&'static str],
}

/// 500 requests a second. POSTs are not retried, so they show failures that retries of idempotent
/// requests would hide.
const MIX: [Kind; 4] = [
    Kind {
        name: "kept",
        code: "200",
        rate: 200,
        port: 80,
        arguments: &["--method", "POST", "--body", "2000"],
    },
    Kind {
        name: "fresh",
        code: "200",
        rate: 50,
        port: 80,
        arguments: &["--fresh"],
    },
    Kind {
        name: "http2",
        code: "200",
        rate: 125,
        port: 80,
        arguments: &["--http2"],
    },
    Kind {
        name: "grpc",
        code: "OK",
        rate: 125,
        port: 9000,
        arguments: &["--grpc", "watch"],
    },
];

/// More requests than any test sends.
const UNBOUNDED: &str = "1000000000";

fn percentage() -> u32 {
    let set = std::env::var("WEFT_E2E_RATE").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(100)
}

impl Kind {
    /// Returns the command that sends this kind's requests at this percentage of its rate, divided
    /// among `parts` senders.
    fn command(&self, address: &str, share: u32, parts: u32) -> Vec<String> {
        let url = match self.port {
            80 => format!("http://{address}/reviews/1"),
            port => format!("http://{address}:{port}"),
        };
        let rate = self.rate * share / 100 * percentage() / 100 / parts;
        let rate = rate.max(1).to_string();
        let all = ["load", "--url", &url, "--rate", &rate, "-n", UNBOUNDED];
        let all = all.into_iter().chain(["-c", "256", "--keep", "0"]);
        all.chain(self.arguments.iter().copied())
            .map(str::to_owned)
            .collect()
    }
}

/// The results of the traffic: the kind, its expected code, and the summary of each sender.
pub struct Traffic(Vec<(&'static str, &'static str, Summary)>);

impl Traffic {
    /// Fails unless every response has the expected code and 90 % of the due requests were started.
    pub fn as_expected(&self) -> anyhow::Result<()> {
        self.as_expected_but(|_| false)
    }

    /// Like [`Traffic::as_expected`], except for failed requests whose start, in milliseconds since
    /// 1970, `excused` accepts.
    pub fn as_expected_but(&self, excused: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        for (name, code, summary) in &self.0 {
            let failed = summary.problems().filter(|problem| !problem.was(code));
            let excused = failed.filter(|problem| excused(problem.at())).count() as u64;
            anyhow::ensure!(
                summary.sent() > 0 && summary.code(code) + excused == summary.sent(),
                "{name}: every response should be {code}, except {excused} failures; {self}"
            );
            anyhow::ensure!(
                summary.sent() * 10 >= summary.due() * 9,
                "{name}: {} of {} requests were started: this machine is too slow for the test; {self}",
                summary.sent(),
                summary.due()
            );
        }
        Ok(())
    }

    /// Fails unless every GET has the expected code: idempotent requests are retried. Prints the
    /// failures of the others.
    pub fn only_unsafe_failed(&self) -> anyhow::Result<()> {
        let failed = |(name, _, summary): &(_, _, Summary)| (*name, summary.failed());
        let failed: Vec<(&str, u64)> = self.0.iter().map(failed).collect();
        eprintln!("failed: {failed:?}");
        let gets = |(name, failed): &(&str, u64)| ["fresh", "http2"].contains(name) && *failed > 0;
        anyhow::ensure!(!failed.iter().any(gets), "GETs failed: {self}");
        Ok(())
    }

    /// Returns all summaries.
    pub fn summaries(&self) -> impl Iterator<Item = &Summary> {
        self.0.iter().map(|(_, _, summary)| summary)
    }

    pub fn sent(&self) -> u64 {
        self.summaries().map(Summary::sent).sum()
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, _, summary) in &self.0 {
            writeln!(f, "{name}: {summary}")?;
        }
        Ok(())
    }
}

impl TestNamespace {
    /// Sends the mix from the pod to the Service while `changes` run. The Service must be
    /// reachable.
    pub async fn under_traffic<T>(
        &self,
        pod: &str,
        service: &str,
        changes: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Traffic)> {
        self.under_share_of_traffic(100, pod, service, changes)
            .await
    }

    /// Like [`TestNamespace::under_traffic`] with this percentage of the rate, for tests with
    /// several senders.
    pub async fn under_share_of_traffic<T>(
        &self,
        share: u32,
        pod: &str,
        service: &str,
        changes: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Traffic)> {
        // By address, so that slow DNS does not fail the test.
        let address = &*in_url(&self.cluster_ip(service).await?);
        self.reachable(pod, &format!("http://{address}/reviews/1"), &[])
            .await?;
        self.reachable(pod, &format!("http://{address}:9000"), &["--grpc", "get"])
            .await?;
        let begin = |kind: &'static Kind| async move {
            let arguments = kind.command(address, share, 1);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let arguments = [&["weft-shop"], &arguments[..], &["--until-stdin"]].concat();
            anyhow::Ok((kind, self.begin_load(pod, &arguments).await?))
        };
        let loads: Vec<(&Kind, Load)> = join_all(MIX.iter().map(begin))
            .await
            .into_iter()
            .collect::<anyhow::Result<_>>()?;
        let changed = changes.await;
        let ended = loads.into_iter().map(|(kind, load)| async move {
            let summary = load.end().await.context(kind.name)?;
            Ok((kind.name, kind.code, summary))
        });
        let ended: anyhow::Result<Vec<_>> = join_all(ended).await.into_iter().collect();
        let traffic = Traffic(ended?);
        eprintln!("{}: {} requests", self.namespace, traffic.sent());
        Ok((changed.with_context(|| traffic.to_string())?, traffic))
    }

    /// Returns the traffic of a Deployment of [`senders`], from the summaries that its pods print
    /// at their end. Follows the pods' logs while `changes` run and until all pods are gone.
    pub async fn traffic_of_pods(
        &self,
        labels: &str,
        changes: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Traffic> {
        let mut followed: Vec<String> = Vec::new();
        let mut logs = Vec::new();
        let mut changes = std::pin::pin!(changes);
        let mut changed = None;
        loop {
            let pods = self.list("v1", "Pod", labels).await?;
            for pod in &pods {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let statuses = pod["status"]["containerStatuses"].as_array();
                let started = statuses.is_some_and(|all| {
                    all.iter()
                        .all(|one| one["started"] == true || !one["state"]["terminated"].is_null())
                });
                if started && !followed.iter().any(|one| one == name) {
                    followed.push(name.to_owned());
                    for kind in &MIX {
                        logs.push((name.to_owned(), kind, self.follow_log(name, kind.name)));
                    }
                }
            }
            if changed.is_some() && pods.is_empty() {
                break;
            }
            tokio::select! {
                done = changes.as_mut(), if changed.is_none() => changed = Some(done),
                () = tokio::time::sleep(std::time::Duration::from_millis(300)) => {}
            }
        }
        let mut all = Vec::new();
        for (pod, kind, log) in logs {
            let text = log.await.context("following a log")??;
            let summary =
                Summary::last_of(&text).with_context(|| format!("log of {pod}, {}", kind.name))?;
            all.push((kind.name, kind.code, summary));
        }
        let traffic = Traffic(all);
        eprintln!(
            "{}: {} requests of {} pods",
            self.namespace,
            traffic.sent(),
            followed.len()
        );
        changed
            .unwrap_or(Ok(()))
            .with_context(|| traffic.to_string())?;
        Ok(traffic)
    }
}

/// Returns a Deployment `senders` whose pods together send the mix to a Service's address for as
/// long as they run.
pub fn senders(address: &str, replicas: u32) -> Value {
    let labels = json!({"app": "senders"});
    let mut pod = objects::pod("senders", "client", labels, &[]);
    let containers = MIX.iter().map(|kind| {
        let arguments = kind.command(&in_url(address), 100, replicas);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        objects::container(kind.name, &arguments)
    });
    pod["spec"]["containers"] = containers.collect();
    pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
    objects::deployment(&pod, replicas)
}
