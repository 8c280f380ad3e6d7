//! Manipulates a test cluster from the machine that it runs on: signals the processes of pods, and
//! disconnects nodes. Only for clusters whose nodes are this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use serde_json::Value;
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Returns why a test that manipulates the machine must be skipped, or `None`. The test prints the
/// reason and passes.
pub fn unavailable() -> Option<&'static str> {
    let made_by = std::fs::read_to_string(root().join(".cluster/provider"));
    match made_by {
        Ok(text) if text.trim() == "embedded" => None,
        _ => Some(
            "skipped: needs the embedded cluster, whose processes and nodes are on this machine",
        ),
    }
}

/// Returns the processes of a container, found by its ID in their cgroups.
fn processes(container: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let cgroup = std::fs::read_to_string(format!("/proc/{name}/cgroup"));
        if name.parse::<u32>().is_ok() && cgroup.is_ok_and(|text| text.contains(container)) {
            found.push(name);
        }
    }
    anyhow::ensure!(
        !found.is_empty(),
        "no process of container {container} is on this machine"
    );
    Ok(found)
}

/// Returns the ID of the pod's running container of this name.
fn container_id(pod: &Value, name: &str) -> anyhow::Result<String> {
    let of = |list: &Value| {
        let statuses = list.as_array().into_iter().flatten();
        let mut ids = statuses.filter(|status| status["name"] == name);
        ids.next()?["containerID"].as_str().map(str::to_owned)
    };
    let status = &pod["status"];
    let id = of(&status["containerStatuses"]).or_else(|| of(&status["initContainerStatuses"]));
    let id = id.with_context(|| format!("container {name} is not running: {status}"))?;
    Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
}

/// Sends a signal (`KILL`, `STOP`, `CONT`) to a container of a pod.
pub async fn signal(pod: &Value, container: &str, signal: &str) -> anyhow::Result<()> {
    let processes = processes(&container_id(pod, container)?)?;
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .args(&processes)
        .status()
        .await?;
    anyhow::ensure!(status.success(), "kill -{signal} {processes:?}: {status}");
    Ok(())
}

/// Runs `cluster node stop NAME` or `cluster node start NAME`.
pub async fn node(what: &str, name: &str) -> anyhow::Result<()> {
    let output = Command::new(root().join("tests/e2e/cluster/cluster"))
        .args(["node", what, name])
        .stdin(Stdio::null())
        .output()
        .await?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "cluster node {what} {name}: {error}"
    );
    Ok(())
}
