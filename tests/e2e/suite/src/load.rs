//! Sends requests from inside a pod with `weft-shop load`, and reads its summary.

use std::fmt;

use anyhow::Context;
use kube::api::{AttachParams, AttachedProcess, LogParams};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::{TestNamespace, eventually};

/// The summary that `weft-shop load` prints.
#[derive(Clone, Debug)]
pub struct Summary(Value);

/// A response that the summary contains in full.
#[derive(Clone, Debug)]
pub struct LoadResponse(Value);

/// A request that failed or exceeded the latency limit.
#[derive(Clone, Debug)]
pub struct Problem(Value);

impl Problem {
    /// The start of the request, in milliseconds since 1970.
    pub fn at(&self) -> u64 {
        self.0["at"].as_u64().unwrap_or(0)
    }

    pub fn millis(&self) -> u64 {
        self.0["millis"].as_u64().unwrap_or(u64::MAX)
    }

    pub fn was(&self, code: &str) -> bool {
        self.0["code"] == code
    }
}

/// A run of `weft-shop load` that continues until it is stopped.
pub struct Load {
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    output: JoinHandle<anyhow::Result<String>>,
}

impl Load {
    /// Stops it and returns its summary.
    pub async fn end(mut self) -> anyhow::Result<Summary> {
        // It may have ended by itself; its output tells why.
        let _ = self.stdin.write_all(b"\n").await;
        let _ = self.stdin.flush().await;
        Summary::last_of(&self.output.await??)
    }
}

impl Summary {
    pub fn sent(&self) -> u64 {
        self.0["sent"].as_u64().unwrap_or(0)
    }

    /// The number of requests that were due at the configured rate.
    pub fn due(&self) -> u64 {
        self.0["due"].as_u64().unwrap_or(u64::MAX)
    }

    /// Requests that failed or were slow; at most the first 1,000.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        let problems = self.0["problems"].as_array().into_iter().flatten();
        problems.map(|problem| Problem(problem.clone()))
    }

    /// Returns the last summary in a log.
    pub(crate) fn last_of(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().rev().map(serde_json::from_str);
        let summary = lines.find_map(Result::ok);
        summary
            .map(Self)
            .with_context(|| format!("no summary in {text:?}"))
    }

    pub fn failed(&self) -> u64 {
        self.0["failed"].as_u64().unwrap_or(u64::MAX)
    }

    /// Returns the number of responses with this HTTP status or gRPC code.
    pub fn code(&self, code: &str) -> u64 {
        self.0["codes"][code].as_u64().unwrap_or(0)
    }

    /// Returns the number of responses from this version.
    pub fn version(&self, version: &str) -> u64 {
        self.0["versions"][version].as_u64().unwrap_or(0)
    }

    /// Returns the first response.
    pub fn first_response(&self) -> LoadResponse {
        LoadResponse(self.0["responses"][0].clone())
    }

    /// Fails unless every response has this code.
    pub fn all(&self, code: &str) -> anyhow::Result<&Self> {
        anyhow::ensure!(
            self.sent() > 0 && self.code(code) == self.sent(),
            "every response should be {code}: {self}"
        );
        Ok(self)
    }

    /// Fails unless every response came from this version.
    pub fn all_from(&self, version: &str) -> anyhow::Result<&Self> {
        let all = self.sent() > 0 && self.version(version) == self.sent();
        anyhow::ensure!(all, "every response should be from {version}: {self}");
        Ok(self)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl LoadResponse {
    /// Returns a response header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0["headers"][name].as_str()
    }

    /// Returns a request header as the reviews pod received it.
    pub fn received(&self, name: &str) -> Option<&str> {
        self.0["body"]["headers"][name].as_str()
    }

    /// Returns why there is no response, or the response's error message.
    pub fn error(&self) -> Option<&str> {
        self.0["error"].as_str()
    }

    pub fn body(&self) -> &Value {
        &self.0["body"]
    }

    pub fn millis(&self) -> u64 {
        self.0["millis"].as_u64().unwrap_or(0)
    }
}

impl TestNamespace {
    /// Sends requests from the pod's container `shop`. Failed requests are counted in the summary;
    /// they are no error here.
    pub async fn load(&self, pod: &str, url: &str, arguments: &[&str]) -> anyhow::Result<Summary> {
        let command = [&["weft-shop", "load", "--url", url], arguments].concat();
        let output = self.exec(pod, "shop", &command).await?;
        let summary = serde_json::from_str(output.trim())
            .with_context(|| format!("{command:?} printed {output}"))?;
        Ok(Summary(summary))
    }

    /// Waits until requests of the pod succeed: nodes and proxies learn of a Service with a delay.
    pub async fn reachable(&self, pod: &str, url: &str, arguments: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("{url} to respond to {pod}"), async || {
            let summary = self.load(pod, url, arguments).await?;
            anyhow::ensure!(summary.failed() == 0, "{summary}");
            Ok(())
        })
        .await
    }

    /// Starts a command with `--until-stdin` in the pod's container `shop`.
    pub async fn begin_load(&self, pod: &str, command: &[&str]) -> anyhow::Result<Load> {
        let parameters = AttachParams::default()
            .container("shop")
            .stdin(true)
            .stdout(true)
            .stderr(true);
        let pods = self.pods();
        let started = pods.exec(pod, command.iter().copied(), &parameters).await;
        let mut process = started.with_context(|| format!("running {command:?} in pod {pod}"))?;
        let stdin = process
            .stdin()
            .context("the process has no standard input")?;
        Ok(Load {
            stdin: Box::new(stdin),
            output: tokio::spawn(output(process)),
        })
    }

    /// Follows a container's log from its start to its end.
    pub(crate) fn follow_log(
        &self,
        pod: &str,
        container: &str,
    ) -> JoinHandle<anyhow::Result<String>> {
        let (pods, pod) = (self.pods(), pod.to_owned());
        let parameters = LogParams {
            container: Some(container.to_owned()),
            follow: true,
            ..Default::default()
        };
        tokio::spawn(async move {
            let mut text = String::new();
            let mut log = std::pin::pin!(pods.log_stream(&pod, &parameters).await?);
            futures::AsyncReadExt::read_to_string(&mut log, &mut text).await?;
            Ok(text)
        })
    }

    /// Runs a command in a container and returns its stdout followed by its stderr.
    pub async fn exec(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> anyhow::Result<String> {
        let parameters = AttachParams::default()
            .container(container)
            .stdout(true)
            .stderr(true);
        let process = self
            .pods()
            .exec(pod, command.iter().copied(), &parameters)
            .await
            .with_context(|| format!("running {command:?} in pod {pod}"))?;
        output(process)
            .await
            .with_context(|| format!("reading the output of {command:?}"))
    }
}

/// Returns a process's stdout followed by its stderr once it has ended.
async fn output(mut process: AttachedProcess) -> anyhow::Result<String> {
    let (mut out, mut err) = (String::new(), String::new());
    let stdout = process.stdout();
    let stderr = process.stderr();
    let read_out = async {
        match stdout {
            Some(mut stream) => stream.read_to_string(&mut out).await,
            None => Ok(0),
        }
    };
    let read_err = async {
        match stderr {
            Some(mut stream) => stream.read_to_string(&mut err).await,
            None => Ok(0),
        }
    };
    let (first, second) = tokio::join!(read_out, read_err);
    first.and(second)?;
    // The status only tells that the program exited with 1; its output tells more.
    let _ = process.join().await;
    out.push_str(&err);
    Ok(out)
}
