//! Changes, restarts and scales Deployments of a test's namespace.

use std::time::{Duration, SystemTime};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{TestNamespace, eventually_within};

/// The time limit for ten pods to start or to terminate.
const PODS: Duration = Duration::from_secs(80);

impl TestNamespace {
    /// Patches a Deployment and waits for the rollout, including the end of replaced pods.
    pub async fn change_deployment(&self, name: &str, patch: &Value) -> anyhow::Result<()> {
        let deployments = self.api("apps/v1", "Deployment");
        deployments
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        self.wait_until_rolled_out(name).await
    }

    /// Waits until a Deployment has exactly its desired number of pods, all of the latest template.
    pub async fn wait_until_rolled_out(&self, name: &str) -> anyhow::Result<()> {
        eventually_within(PODS, "the rollout of the Deployment", async || {
            let deployment = self.get("apps/v1", "Deployment", name).await?;
            let status = &deployment["status"];
            let desired = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
            let count = |field: &str| status[field].as_u64().unwrap_or(0);
            let same = status["observedGeneration"] == deployment["metadata"]["generation"]
                && count("updatedReplicas") == desired
                && count("readyReplicas") == desired;
            anyhow::ensure!(same, "its status is {status}");
            let labels = deployment["spec"]["selector"]["matchLabels"].as_object();
            let labels: Vec<String> = labels
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            let pods = self.list("v1", "Pod", &labels.join(",")).await?.len() as u64;
            anyhow::ensure!(pods == desired, "there are {pods} pods");
            Ok(())
        })
        .await
    }

    /// Restarts every pod and waits for the rollout.
    pub async fn restart_deployment(&self, name: &str) -> anyhow::Result<()> {
        let annotations = json!({"e2e/restarted": format!("{:?}", SystemTime::now())});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        self.change_deployment(name, &patch).await
    }

    pub async fn scale_deployment(&self, name: &str, replicas: u32) -> anyhow::Result<()> {
        self.change_deployment(name, &json!({"spec": {"replicas": replicas}}))
            .await
    }
}
