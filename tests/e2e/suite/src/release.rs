//! The installed Weft as a helm release: upgraded, rolled back, uninstalled and reinstalled as
//! documented.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::Value;

use crate::control_plane::{NAMESPACE, system};
use crate::{TestNamespace, eventually, host, objects};

/// The tag of the images that `tests/e2e/suite/next-images` writes, and the version of the chart
/// that refers to them.
pub const NEXT: &str = "9.9.9";

const NAME: &str = "weft";
/// The time limit for helm's `--wait`.
const TIMEOUT: &str = "--timeout=100s";

/// The release that was installed before the test.
pub struct Release {
    revision: u64,
    /// The values it was installed with, other than the chart's defaults.
    values: String,
    manifest: String,
    /// The tag of its images.
    pub version: String,
}

impl Release {
    /// Reads the installed release.
    pub async fn found() -> anyhow::Result<Self> {
        let last = last().await?;
        let version = last["app_version"].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(
            last["status"] == "deployed" && version != NEXT,
            "an earlier test left the release {NAME} as {last}; run: make install"
        );
        let values = helm(&["get", "values", NAME, "--output=json"]).await?;
        Ok(Self {
            revision: last["revision"]
                .as_u64()
                .context("the release has no revision")?,
            values: Some(values)
                .filter(|values| values.trim() != "null")
                .unwrap_or_else(|| "{}".to_owned()),
            manifest: manifest().await?,
            version,
        })
    }

    /// Upgrades to the next version of the chart, whose images are the installed ones with another
    /// tag.
    pub async fn upgrade(&self) -> anyhow::Result<()> {
        let chart = next_chart(&self.version)?;
        let reuse = "--reset-then-reuse-values";
        helm(&["upgrade", NAME, &chart, reuse, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    /// Upgrades to the same version of the chart with further values, as `name=value`.
    pub async fn set(&self, values: &[&str]) -> anyhow::Result<()> {
        let chart = host::root().join("charts/weft");
        let chart = chart.to_string_lossy();
        let mut arguments = vec!["upgrade", NAME, &chart, "--reset-then-reuse-values"];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        helm(&[&arguments[..], &["--wait", TIMEOUT]].concat()).await?;
        Ok(())
    }

    /// Rolls back to the release of before the test.
    pub async fn roll_back(&self) -> anyhow::Result<()> {
        let revision = self.revision.to_string();
        helm(&["rollback", NAME, &revision, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    pub async fn uninstall(&self) -> anyhow::Result<()> {
        helm(&["uninstall", NAME, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    /// Installs the chart with the values of before the test.
    pub async fn install(&self) -> anyhow::Result<()> {
        let values = scratch("values.json")?;
        std::fs::write(&values, &self.values)?;
        let chart = host::root().join("charts/weft");
        let (chart, values) = (chart.to_string_lossy(), format!("--values={values}"));
        helm(&["install", NAME, &chart, &values, "--wait", TIMEOUT]).await?;
        Ok(())
    }

    /// Restores the release of before the test from whatever state the test left.
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

/// Returns the latest revision; an error if there is no release.
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
        .success()
        .with_context(|| format!("helm {}", arguments.join(" ")))
}

/// Returns the path of a file or folder for the tests' own use.
fn scratch(name: &str) -> anyhow::Result<String> {
    let folder = host::root().join("target/e2e");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(name).to_string_lossy().into_owned())
}

/// Returns a copy of the chart with the next version.
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
    anyhow::ensure!(
        next != described,
        "the chart does not have version {version}"
    );
    std::fs::write(format!("{copy}/Chart.yaml"), next)?;
    Ok(copy)
}

/// Returns the image of a pod's proxy; `None` if it has no proxy.
pub fn proxy_image(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let lists = [&spec["initContainers"], &spec["containers"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    let mut proxies = all.filter(|one| one["name"] == "weft-proxy");
    proxies.next()?["image"].as_str().map(str::to_owned)
}

/// The results of creating pods.
pub struct Created(Vec<Result<Option<String>, String>>);

impl Created {
    /// Fails if the API server rejected a pod.
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

    /// Fails unless each created pod has a proxy.
    pub fn all_injected(&self) -> anyhow::Result<()> {
        let without = self.0.iter().filter(|one| **one == Ok(None)).count();
        anyhow::ensure!(without == 0, "{without} pods would have no proxy");
        Ok(())
    }
}

impl TestNamespace {
    /// Creates five pods a second in the namespace while `changes` run, as dry runs: the API server
    /// calls the injector and stores nothing.
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

    /// Returns the image of the proxy that a pod would get, or the error of its creation.
    async fn creation(&self) -> Result<Option<String>, String> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let pod: Pod =
            serde_json::from_value(objects::client("not-kept")).map_err(|error| text(&error))?;
        let created = self.pods().create(&parameters, &pod).await;
        let created = created.map_err(|error| text(&error))?;
        let created = serde_json::to_value(created).map_err(|error| text(&error))?;
        Ok(proxy_image(&created))
    }

    /// Waits until every pod of the control plane has this version, terminating ones included:
    /// until then a pod may get a proxy of another version.
    pub async fn control_plane_of(&self, version: &str) -> anyhow::Result<()> {
        let system = system(&self.client);
        eventually(
            &format!("the control plane to have version {version}"),
            async || {
                let pods = system
                    .list("v1", "Pod", "app.kubernetes.io/part-of=weft")
                    .await?;
                anyhow::ensure!(!pods.is_empty(), "the control plane has no pods");
                for pod in &pods {
                    let image = pod["spec"]["containers"][0]["image"].as_str();
                    let image = image.unwrap_or_default();
                    anyhow::ensure!(
                        image.ends_with(&format!(":{version}")),
                        "a pod has the image {image}"
                    );
                }
                Ok(())
            },
        )
        .await
    }
}

/// Returns the objects of the release, which all have helm's label, as `kind.group/name`.
pub async fn objects_of_release() -> anyhow::Result<Vec<String>> {
    let kinds = kinds("--namespaced=true").await? + "," + &kinds("--namespaced=false").await?;
    let label = format!("--selector=app.kubernetes.io/instance={NAME}");
    listed(&[&kinds, "--all-namespaces", &label]).await
}

/// Returns all objects in the control plane's namespace, except events.
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
