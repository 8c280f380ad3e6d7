//! The installed Weft as a release of helm: upgraded, rolled back, removed and installed again, as its documentation says.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::Value;

use crate::control_plane::{NAMESPACE, system};
use crate::{Bed, eventually, host, objects};

/// The tag of the images that `tests/e2e/suite/next-images` makes, and the version of the chart that names them.
pub const NEXT: &str = "9.9.9";

const NAME: &str = "weft";
/// The longest that helm may wait for what it did.
const TIMEOUT: &str = "--timeout=100s";

/// A release as it was found.
pub struct Release {
    revision: u64,
    /// What it was installed with, beside the chart's defaults.
    values: String,
    manifest: String,
    /// The tag of its images.
    pub version: String,
}

impl Release {
    /// Reads what is installed.
    pub async fn found() -> anyhow::Result<Self> {
        let last = last().await?;
        let version = last["app_version"].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(
            last["status"] == "deployed" && version != NEXT,
            "a run of the tests left the release {NAME} as {last}: make install"
        );
        let values = helm(&["get", "values", NAME, "--output=json"]).await?;
        Ok(Self {
            revision: last["revision"].as_u64().context("it has no revision")?,
            values: Some(values)
                .filter(|values| values.trim() != "null")
                .unwrap_or_else(|| "{}".to_owned()),
            manifest: manifest().await?,
            version,
        })
    }

    /// To the next version of the chart, whose images are those that are installed under another tag.
    pub async fn upgrade(&self) -> anyhow::Result<()> {
        let chart = next_chart(&self.version)?;
        let reuse = "--reset-then-reuse-values";
        helm(&["upgrade", NAME, &chart, reuse, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    /// To what was found.
    pub async fn roll_back(&self) -> anyhow::Result<()> {
        let revision = self.revision.to_string();
        helm(&["rollback", NAME, &revision, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    pub async fn uninstall(&self) -> anyhow::Result<()> {
        helm(&["uninstall", NAME, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    /// With the values that were found.
    pub async fn install(&self) -> anyhow::Result<()> {
        let values = scratch("values.json")?;
        std::fs::write(&values, &self.values)?;
        let chart = host::root().join("charts/weft");
        let (chart, values) = (chart.to_string_lossy(), format!("--values={values}"));
        helm(&["install", NAME, &chart, &values, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    /// Does what is left to do until it is as it was found.
    pub(crate) async fn restore(&self) -> anyhow::Result<()> {
        let Ok(last) = last().await else {
            return self.install().await;
        };
        match last["status"].as_str() {
            Some("deployed") if manifest().await? == self.manifest => Ok(()),
            Some("uninstalling" | "uninstalled") => {
                self.uninstall().await?;
                self.install().await
            }
            _ => self.roll_back().await,
        }
    }
}

/// The newest revision; an error where there is no release.
async fn last() -> anyhow::Result<Value> {
    let history = helm(&["history", NAME, "--max=1", "--output=json"]).await?;
    let mut history: Value = serde_json::from_str(&history)?;
    Ok(history[0].take())
}

async fn manifest() -> anyhow::Result<String> {
    helm(&["get", "manifest", NAME]).await
}

async fn helm(arguments: &[&str]) -> anyhow::Result<String> {
    let namespace = format!("--namespace={NAMESPACE}");
    let arguments = [arguments, &[&namespace]].concat();
    let output = host::run("helm", &arguments).await?;
    output
        .good()
        .with_context(|| format!("helm {}", arguments.join(" ")))
}

/// The path of a file or folder of the tests' own.
fn scratch(name: &str) -> anyhow::Result<String> {
    let folder = host::root().join("target/e2e");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(name).to_string_lossy().into_owned())
}

/// A copy of the chart as its next version would be.
fn next_chart(version: &str) -> anyhow::Result<String> {
    let copy = scratch("next-chart")?;
    let chart = host::root().join("charts/weft");
    for folder in ["", "templates"] {
        std::fs::create_dir_all(format!("{copy}/{folder}"))?;
        for entry in std::fs::read_dir(chart.join(folder))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                std::fs::copy(entry.path(), format!("{copy}/{folder}/{name}"))?;
            }
        }
    }
    let described = std::fs::read_to_string(format!("{copy}/Chart.yaml"))?;
    let next = described.replace(
        &format!("ersion: {version}\n"),
        &format!("ersion: {NEXT}\n"),
    );
    anyhow::ensure!(next != described, "the chart is not of version {version}");
    std::fs::write(format!("{copy}/Chart.yaml"), next)?;
    Ok(copy)
}

/// The image of a pod's proxy; `None` where it has none.
pub fn proxy_image(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let lists = [&spec["initContainers"], &spec["containers"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    let mut proxies = all.filter(|one| one["name"] == "weft-proxy");
    proxies.next()?["image"].as_str().map(str::to_owned)
}

/// What became of pods that were to be created.
pub struct Created(Vec<Result<Option<String>, String>>);

impl Created {
    /// Fails where the API server refused one.
    pub fn all(&self) -> anyhow::Result<()> {
        let refused: Vec<_> = self.0.iter().filter_map(|one| one.as_ref().err()).collect();
        let (count, first) = (refused.len(), refused.first());
        anyhow::ensure!(
            !self.0.is_empty() && refused.is_empty(),
            "{count} of {} pods could not be created: {first:?}",
            self.0.len()
        );
        Ok(())
    }

    /// Fails unless each that was created has a proxy.
    pub fn all_injected(&self) -> anyhow::Result<()> {
        let without = self.0.iter().filter(|one| **one == Ok(None)).count();
        anyhow::ensure!(without == 0, "{without} pods would have no proxy");
        Ok(())
    }
}

impl Bed {
    /// Has pods of the namespace created, five a second, while `changes` are made: the API server asks the injector, and
    /// keeps none of them.
    pub async fn creations_during<T>(
        &self,
        changes: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Created)> {
        let mut changes = std::pin::pin!(changes);
        let mut created = Vec::new();
        let changed = loop {
            tokio::select! {
                changed = &mut changes => break changed?,
                one = self.creation() => created.push(one),
            }
        };
        Ok((changed, Created(created)))
    }

    /// The image of the proxy that a pod would have now, or why it cannot be created.
    async fn creation(&self) -> Result<Option<String>, String> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let pod: Pod =
            serde_json::from_value(objects::client("not-kept")).map_err(|error| said(&error))?;
        let created = self.pods().create(&parameters, &pod).await;
        let created = created.map_err(|error| said(&error))?;
        let created = serde_json::to_value(created).map_err(|error| said(&error))?;
        Ok(proxy_image(&created))
    }

    /// Waits until every pod of the control plane is of this version, those that end included: until then, a pod may still
    /// get the proxy of another version.
    pub async fn control_plane_of(&self, version: &str) -> anyhow::Result<()> {
        let system = system(&self.client);
        eventually(&format!("a control plane of {version}"), async || {
            let pods = system
                .list("v1", "Pod", "app.kubernetes.io/part-of=weft")
                .await?;
            anyhow::ensure!(!pods.is_empty(), "it has no pods");
            for pod in &pods {
                let image = pod["spec"]["containers"][0]["image"].as_str();
                let image = image.unwrap_or_default();
                anyhow::ensure!(image.ends_with(&format!(":{version}")), "one is {image}");
            }
            Ok(())
        })
        .await
    }
}

/// What there is of the release, whatever its kind, as `kind.group/name`: it all has helm's label.
pub async fn objects_of_release() -> anyhow::Result<Vec<String>> {
    let kinds = kinds("--namespaced=true").await? + "," + &kinds("--namespaced=false").await?;
    let label = format!("--selector=app.kubernetes.io/instance={NAME}");
    listed(&[&kinds, "--all-namespaces", &label]).await
}

/// What there is in the namespace of the control plane, whoever made it, but for events.
pub async fn objects_of_namespace() -> anyhow::Result<Vec<String>> {
    let kinds = kinds("--namespaced=true").await?;
    let mut all = listed(&[&kinds, &format!("--namespace={NAMESPACE}")]).await?;
    all.retain(|name| !name.starts_with("event"));
    Ok(all)
}

async fn kinds(which: &str) -> anyhow::Result<String> {
    let kinds = host::kubectl(&["api-resources", "--verbs=list", "--output=name", which]).await?;
    Ok(kinds.lines().collect::<Vec<_>>().join(","))
}

async fn listed(arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let get = ["get", "--output=name", "--ignore-not-found"];
    let names = host::kubectl(&[&get, arguments].concat()).await?;
    Ok(names.lines().map(str::to_owned).collect())
}
