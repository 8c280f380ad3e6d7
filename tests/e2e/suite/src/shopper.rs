//! Requests sent from inside a pod, by `weft-shop load`, and what came back.

use std::fmt;

use anyhow::Context;
use kube::api::{AttachParams, AttachedProcess, LogParams};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::{Bed, eventually};

/// What a run of `weft-shop load` printed.
#[derive(Clone, Debug)]
pub struct Summary(Value);

/// One answer of those it kept.
#[derive(Clone, Debug)]
pub struct Answer(Value);

/// A request that failed, or that was answered late.
#[derive(Clone, Debug)]
pub struct Trouble(Value);

impl Trouble {
    /// When it was begun, in milliseconds since 1970.
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

/// A run of `weft-shop load` that goes on until it is told to end.
pub(crate) struct Load {
    told: Box<dyn AsyncWrite + Send + Unpin>,
    output: JoinHandle<anyhow::Result<String>>,
}

impl Load {
    /// Has it end and waits for what it prints.
    pub(crate) async fn end(mut self) -> anyhow::Result<Summary> {
        // It may have ended by itself: what it printed says why.
        let _ = self.told.write_all(b"\n").await;
        let _ = self.told.flush().await;
        Summary::last_of(&self.output.await??)
    }
}

impl Summary {
    pub fn sent(&self) -> u64 {
        self.0["sent"].as_u64().unwrap_or(0)
    }

    /// How many were to be begun, by their rate.
    pub fn due(&self) -> u64 {
        self.0["due"].as_u64().unwrap_or(u64::MAX)
    }

    /// Requests that failed or were slow, the first 1,000.
    pub fn troubles(&self) -> impl Iterator<Item = Trouble> {
        let troubles = self.0["troubles"].as_array().into_iter().flatten();
        troubles.map(|trouble| Trouble(trouble.clone()))
    }

    /// The last summary in a log.
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

    /// How many answers had this HTTP status or gRPC code.
    pub fn code(&self, code: &str) -> u64 {
        self.0["codes"][code].as_u64().unwrap_or(0)
    }

    /// How many answers came from this version.
    pub fn version(&self, version: &str) -> u64 {
        self.0["versions"][version].as_u64().unwrap_or(0)
    }

    /// The first answer.
    pub fn answer(&self) -> Answer {
        Answer(self.0["answers"][0].clone())
    }

    /// Fails unless every request was answered with this code.
    pub fn all(&self, code: &str) -> anyhow::Result<&Self> {
        anyhow::ensure!(
            self.sent() > 0 && self.code(code) == self.sent(),
            "every answer should be {code}: {self}"
        );
        Ok(self)
    }

    /// Fails unless every answer came from this version.
    pub fn all_from(&self, version: &str) -> anyhow::Result<&Self> {
        let all = self.sent() > 0 && self.version(version) == self.sent();
        anyhow::ensure!(all, "every answer should be of {version}: {self}");
        Ok(self)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Answer {
    /// A header of the response.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0["headers"][name].as_str()
    }

    /// A header of the request, as the reviews received it.
    pub fn received(&self, name: &str) -> Option<&str> {
        self.0["body"]["headers"][name].as_str()
    }

    /// Why there is no answer, or what it says of a failure.
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

impl Bed {
    /// Sends requests from the pod's container `shop`. Failed ones are counted in the summary, not an error here.
    pub async fn load(&self, pod: &str, url: &str, arguments: &[&str]) -> anyhow::Result<Summary> {
        let command = [&["weft-shop", "load", "--url", url], arguments].concat();
        let output = self.exec(pod, "shop", &command).await?;
        let summary = serde_json::from_str(output.trim())
            .with_context(|| format!("{command:?} printed {output}"))?;
        Ok(Summary(summary))
    }

    /// Waits until requests of the pod are answered: nodes and proxies learn of a Service in their own time.
    pub async fn answered(&self, pod: &str, url: &str, arguments: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("answers to {pod} from {url}"), async || {
            let summary = self.load(pod, url, arguments).await?;
            anyhow::ensure!(summary.failed() == 0, "{summary}");
            Ok(())
        })
        .await
    }

    /// Begins a command with `--until-told` in the pod's container `shop`.
    pub(crate) async fn begin_load(&self, pod: &str, command: &[&str]) -> anyhow::Result<Load> {
        let parameters = AttachParams::default()
            .container("shop")
            .stdin(true)
            .stdout(true)
            .stderr(true);
        let pods = self.pods();
        let begun = pods.exec(pod, command.iter().copied(), &parameters).await;
        let mut process = begun.with_context(|| format!("running {command:?} in pod {pod}"))?;
        let told = process.stdin().context("no standard input")?;
        Ok(Load {
            told: Box::new(told),
            output: tokio::spawn(output(process)),
        })
    }

    /// Reads a container's log from its beginning until it ends.
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

    /// Runs a command in a container and returns what it wrote to stdout and then to stderr.
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
            .with_context(|| format!("reading what {command:?} wrote"))
    }
}

/// What a process writes to stdout and then to stderr, until it ends.
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
    // The status says only that the program ended with 1; what it wrote says more.
    let _ = process.join().await;
    out.push_str(&err);
    Ok(out)
}
