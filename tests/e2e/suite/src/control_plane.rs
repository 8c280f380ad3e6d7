//! Reads from, restarts and changes the parts of Weft's control plane.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{TestNamespace, eventually, objects, tls_client};

pub const NAMESPACE: &str = "weft-system";

/// The namespace of the control plane. Tests create and delete nothing in it.
pub fn system(client: &Client) -> TestNamespace {
    TestNamespace {
        client: client.clone(),
        namespace: NAMESPACE.to_owned(),
    }
}

/// Restarts a Deployment like `kubectl rollout restart`, and waits for the rollout.
pub async fn restart(client: &Client, deployment: &str) -> anyhow::Result<()> {
    let at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_millis()
        .to_string();
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": at});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    patch_deployment(client, deployment, &patch).await
}

/// Scales a Deployment and waits for the rollout.
pub async fn scale(client: &Client, deployment: &str, replicas: u64) -> anyhow::Result<()> {
    patch_deployment(client, deployment, &json!({"spec": {"replicas": replicas}})).await
}

/// Pins a Deployment's pods to one node; `None` removes the restriction.
pub async fn keep_on(client: &Client, deployment: &str, node: Option<&str>) -> anyhow::Result<()> {
    let selector = json!({"kubernetes.io/hostname": node});
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}});
    patch_deployment(client, deployment, &patch).await
}

/// Deletes every pod of a Deployment without grace period, and waits until its replacements are
/// ready.
pub async fn kill(client: &Client, deployment: &str) -> anyhow::Result<()> {
    let system = system(client);
    let at_once = DeleteParams::default().grace_period(0);
    let killed = pod_names(client, deployment).await?;
    for pod in &killed {
        system.pods().delete(pod, &at_once).await?;
    }
    eventually(
        &format!("replacements for the pods of {deployment}"),
        async || {
            let now = pod_names(client, deployment).await?;
            anyhow::ensure!(
                !now.iter().any(|pod| killed.contains(pod)),
                "{now:?} still include a deleted pod"
            );
            Ok(())
        },
    )
    .await?;
    wait_for_rollout(&system, deployment).await
}

/// Runs `test` while the only container of a Deployment has these environment variables, and
/// restores the container afterwards.
pub async fn with_environment<T>(
    client: &Client,
    deployment: &str,
    variables: &[(&str, &str)],
    test: impl AsyncFnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let before = system(client)
        .get("apps/v1", "Deployment", deployment)
        .await?["spec"]["template"]["spec"]["containers"]
        .take();
    let mut with = before.clone();
    let environment = with[0]["env"]
        .as_array_mut()
        .context("the container has no env")?;
    environment.retain(|one| !variables.iter().any(|(name, _)| one["name"] == *name));
    environment.extend(
        variables
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    let containers = |list: &Value| json!({"spec": {"template": {"spec": {"containers": list}}}});
    let outcome = async {
        patch_deployment(client, deployment, &containers(&with)).await?;
        test().await
    }
    .await;
    // Restored whether or not the test failed.
    patch_deployment(client, deployment, &containers(&before)).await?;
    outcome
}

async fn patch_deployment(client: &Client, name: &str, patch: &Value) -> anyhow::Result<()> {
    let system = system(client);
    let deployments = system.api("apps/v1", "Deployment");
    deployments
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    wait_for_rollout(&system, name).await
}

async fn wait_for_rollout(system: &TestNamespace, name: &str) -> anyhow::Result<()> {
    let desired = eventually(&format!("the rollout of {name}"), async || {
        let deployment = system.get("apps/v1", "Deployment", name).await?;
        let status = &deployment["status"];
        let desired = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let count = |field: &str| status[field].as_u64().unwrap_or(0);
        let done = status["observedGeneration"] == deployment["metadata"]["generation"]
            && count("updatedReplicas") == desired
            && count("readyReplicas") == desired
            && count("replicas") == desired;
        anyhow::ensure!(done, "its status is {status}");
        Ok(desired)
    })
    .await?;
    // The provisioner accepts no connections and has no Service.
    if desired > 0 && name != "weft-provisioner" {
        wait_until_reachable(system, name).await?;
    }
    Ok(())
}

/// Waits until every connection to the Service succeeds: nodes learn with a delay which pods are
/// gone.
async fn wait_until_reachable(system: &TestNamespace, name: &str) -> anyhow::Result<()> {
    let service = system.get("v1", "Service", name).await?;
    let port = service["spec"]["ports"][0]["port"].as_u64();
    let port = u16::try_from(port.context("the Service has no port")?)?;
    let address: IpAddr = system.cluster_ip(name).await?.parse()?;
    let address = SocketAddr::new(address, port).to_string();
    eventually(
        &format!("every connection to {name} to succeed"),
        async || {
            for _ in 0..10 {
                tls_client::open(&address).await?;
            }
            Ok(())
        },
    )
    .await
}

/// Waits until the cluster's and Weft's control planes are ready, as other tests assume.
pub(crate) async fn settled(client: &Client) -> anyhow::Result<()> {
    let system = system(client);
    for namespace in ["kube-system", "metallb-system"] {
        let place = system.in_namespace(namespace);
        let ready = async || {
            for deployment in place.list("apps/v1", "Deployment", "").await? {
                let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or(0);
                let desired = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
                let name = &deployment["metadata"]["name"];
                anyhow::ensure!(
                    ready == desired,
                    "{ready} of {desired} pods of {name} are ready"
                );
            }
            Ok(())
        };
        eventually(
            &format!("the Deployments of {namespace} to be ready"),
            ready,
        )
        .await?;
    }
    for part in ["weft-controller", "weft-injector", "weft-provisioner"] {
        wait_for_rollout(&system, part).await?;
    }
    Ok(())
}

/// Returns the desired number of replicas of a Deployment.
pub async fn replicas(client: &Client, name: &str) -> anyhow::Result<u64> {
    let deployment = system(client).get("apps/v1", "Deployment", name).await?;
    Ok(deployment["spec"]["replicas"].as_u64().unwrap_or(1))
}

/// Returns the names of the pods of one of Weft's Deployments that are not terminating.
pub async fn pod_names(client: &Client, deployment: &str) -> anyhow::Result<Vec<String>> {
    let pods = system(client).list("v1", "Pod", "").await?;
    let names = pods
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter_map(|pod| pod["metadata"]["name"].as_str());
    let names: Vec<_> = names
        .filter(|name| name.starts_with(deployment))
        .map(str::to_owned)
        .collect();
    anyhow::ensure!(!names.is_empty(), "{deployment} has no pods");
    Ok(names)
}

/// Waits until no pod of the Deployment is terminating. A webhook that drains still answers on
/// connections that the API server keeps.
pub async fn wait_until_replaced(client: &Client, deployment: &str) -> anyhow::Result<()> {
    eventually(
        &format!("old pods of {deployment} to be gone"),
        async || {
            let pods = system(client).list("v1", "Pod", "").await?;
            let named = |pod: &&Value| {
                let name = pod["metadata"]["name"].as_str();
                name.is_some_and(|name| name.starts_with(deployment))
            };
            let ends = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
            anyhow::ensure!(!pods.iter().filter(named).any(ends), "one is terminating");
            Ok(())
        },
    )
    .await
}

/// Returns the number of container restarts in the control plane.
pub async fn restarts(client: &Client) -> anyhow::Result<u64> {
    let pods = system(client).list("v1", "Pod", "").await?;
    Ok(pods.iter().map(objects::restarts).sum())
}

/// Returns the logs of all controller replicas since `since`.
pub async fn controller_log(client: &Client, since: Instant) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let parameters = LogParams {
        since_seconds: Some(since.elapsed().as_secs().cast_signed() + 1),
        ..Default::default()
    };
    let mut text = String::new();
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.metadata.name.unwrap_or_default();
        if name.starts_with("weft-controller") {
            text.push_str(
                &pods
                    .logs(&name, &parameters)
                    .await
                    .with_context(|| format!("log of {name}"))?,
            );
        }
    }
    Ok(text)
}
