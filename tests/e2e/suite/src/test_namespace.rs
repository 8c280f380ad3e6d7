//! The namespace of one test: created before the test and deleted after it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::{eventually, objects};

/// Whether the test's namespace is labelled for injection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    Meshed,
    Unmeshed,
}

/// A namespace, with operations on the objects in it.
pub struct TestNamespace {
    pub client: Client,
    pub namespace: String,
}

/// Returns a client for `KUBECONFIG`, or for the test cluster of this checkout.
pub(crate) async fn connect() -> anyhow::Result<Client> {
    let file = std::env::var_os("KUBECONFIG").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.cluster/kubeconfig"),
        PathBuf::from,
    );
    let unreadable = || {
        format!(
            "cannot read {}: `make cluster install` makes a cluster with Weft",
            file.display()
        )
    };
    let kubeconfig = Kubeconfig::read_from(&file).with_context(unreadable)?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.read_timeout = None;
    let client = Client::try_from(config)?;
    let deployments = TestNamespace {
        client: client.clone(),
        namespace: "weft-system".to_owned(),
    };
    for part in ["weft-controller", "weft-injector", "weft-provisioner"] {
        let deployment = deployments.get("apps/v1", "Deployment", part).await;
        let deployment = deployment.with_context(|| {
            format!(
                "the cluster of {} has no {part}: `make install` installs Weft",
                file.display()
            )
        })?;
        let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or(0);
        anyhow::ensure!(
            ready > 0,
            "{part} is not ready: kubectl -n weft-system describe pods"
        );
    }
    Ok(client)
}

/// Returns the identifier of this run: the suffix of its namespaces and the value of their label
/// `weft.dev/e2e`.
fn run_name() -> String {
    std::env::var("WEFT_E2E_RUN")
        .unwrap_or_else(|_| format!("{:05x}", std::process::id() & 0xf_ffff))
}

fn resource(version: &str, kind: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl TestNamespace {
    pub(crate) async fn make(
        client: Client,
        name: &str,
        injection: Injection,
    ) -> anyhow::Result<Self> {
        let run = run_name();
        let ns = Self {
            client,
            namespace: format!("weft-e2e-{name}-{run}"),
        };
        ns.apply(objects::namespace(
            &ns.namespace,
            &run,
            injection == Injection::Meshed,
        ))
        .await?;
        for account in ["client", "reviews"] {
            ns.apply(objects::account(account)).await?;
        }
        Ok(ns)
    }

    /// Deletes the namespace without waiting for its pods; `tests/e2e/suite/run` waits.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        let namespaces: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &resource("v1", "Namespace"));
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .with_context(|| format!("namespace {} was not deleted", self.namespace))?;
        Ok(())
    }

    /// Returns the API of a kind: of this namespace if the kind is namespaced, else of the cluster.
    pub fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let resource = resource(version, kind);
        let cluster_wide = [
            "Namespace",
            "Node",
            "XMesh",
            "ClusterAuthorizationPolicy",
            "ClusterRoleBinding",
            "GatewayClass",
            "MutatingWebhookConfiguration",
            "CustomResourceDefinition",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ];
        if cluster_wide.contains(&kind) {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        }
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates or updates an object with server-side apply.
    pub async fn apply(&self, object: Value) -> anyhow::Result<Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let name = text(&object["metadata"]["name"]);
        let parameters = PatchParams::apply("weft-e2e").force();
        let applied = self
            .api(&version, &kind)
            .patch(&name, &parameters, &Patch::Apply(&object))
            .await;
        let applied = applied.with_context(|| format!("applying {kind} {name}"))?;
        Ok(serde_json::to_value(applied)?)
    }

    pub async fn get(&self, version: &str, kind: &str, name: &str) -> anyhow::Result<Value> {
        let found = self.api(version, kind).get(name).await;
        let found = found.with_context(|| format!("reading {kind} {}/{name}", self.namespace))?;
        Ok(serde_json::to_value(found)?)
    }

    pub async fn list(
        &self,
        version: &str,
        kind: &str,
        labels: &str,
    ) -> anyhow::Result<Vec<Value>> {
        let found = self
            .api(version, kind)
            .list(&ListParams::default().labels(labels))
            .await;
        let found = found.with_context(|| format!("listing {kind} in {}", self.namespace))?;
        found
            .items
            .into_iter()
            .map(|item| Ok(serde_json::to_value(item)?))
            .collect()
    }

    /// Deploys the pod `client`, and for each version a reviews pod behind the Services `reviews`
    /// and `reviews-VERSION`. Waits until all are ready and the client reaches each version.
    pub async fn deploy_shop(&self, versions: &[&str]) -> anyhow::Result<()> {
        self.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        self.apply(objects::client("client")).await?;
        for version in versions {
            let selector = json!({"app": "reviews", "version": version});
            self.apply(objects::service(&format!("reviews-{version}"), selector))
                .await?;
            self.apply(objects::reviews(version)).await?;
        }
        self.wait_until_ready("client").await?;
        for version in versions {
            let name = format!("reviews-{version}");
            self.wait_until_ready(&name).await?;
            self.reachable("client", &format!("http://{name}/reviews/1"), &[])
                .await?;
        }
        Ok(())
    }

    /// Sets the annotation `weft.dev/mtls` of a pod or namespace; `null` removes it.
    pub async fn set_mtls(&self, kind: &str, name: &str, mode: Value) -> anyhow::Result<()> {
        let annotations = json!({"weft.dev/mtls": mode});
        self.annotate(kind, name, annotations).await
    }

    /// Sets annotations of an object of the API group ""; `null` removes one.
    pub async fn annotate(&self, kind: &str, name: &str, annotations: Value) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": annotations}});
        let (object, patch) = (self.api("v1", kind), Patch::Merge(&patch));
        let patched = object.patch(name, &PatchParams::default(), &patch).await;
        patched
            .map(drop)
            .with_context(|| format!("annotating {kind} {name}"))
    }

    /// Waits until the pod is ready.
    pub async fn wait_until_ready(&self, pod: &str) -> anyhow::Result<Value> {
        eventually(&format!("pod {pod} to be ready"), async || {
            let pod = self.get("v1", "Pod", pod).await?;
            let conditions = pod["status"]["conditions"].as_array();
            let ready = conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            anyhow::ensure!(ready, "its status is {}", pod["status"]);
            Ok(pod)
        })
        .await
    }

    pub async fn pod_ip(&self, pod: &str) -> anyhow::Result<String> {
        let pod = self.get("v1", "Pod", pod).await?;
        pod["status"]["podIP"]
            .as_str()
            .map(str::to_owned)
            .context("the pod has no address yet")
    }

    /// Returns the addresses of a pod, one per IP family, the primary one first.
    pub async fn pod_ips(&self, pod: &str) -> anyhow::Result<Vec<String>> {
        let pod = self.get("v1", "Pod", pod).await?;
        let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let all: Vec<String> = all
            .filter_map(|one| one["ip"].as_str().map(str::to_owned))
            .collect();
        anyhow::ensure!(!all.is_empty(), "the pod has no address yet");
        Ok(all)
    }

    /// Returns the IP families of the cluster, `IPv4` and `IPv6`, the primary one first. Fails
    /// unless they match `FAMILY`, which `cluster up` reads too.
    pub async fn families(&self) -> anyhow::Result<Vec<&'static str>> {
        let nodes = self.list("v1", "Node", "").await?;
        let addresses = nodes.first().map(|node| &node["status"]["addresses"]);
        let addresses = addresses.and_then(Value::as_array).into_iter().flatten();
        let internal = addresses.filter(|one| one["type"] == "InternalIP");
        let has: Vec<&str> = internal
            .filter_map(|one| one["address"].as_str().map(objects::address_type))
            .collect();
        let wanted = match std::env::var("FAMILY").as_deref() {
            Ok("ipv4") => vec!["IPv4"],
            Ok("ipv6") => vec!["IPv6"],
            Ok("dual") => vec!["IPv4", "IPv6"],
            _ => has.clone(),
        };
        anyhow::ensure!(has == wanted, "the nodes have {has:?}, not {wanted:?}");
        Ok(has)
    }

    pub async fn cluster_ip(&self, service: &str) -> anyhow::Result<String> {
        let service = self.get("v1", "Service", service).await?;
        service["spec"]["clusterIP"]
            .as_str()
            .map(str::to_owned)
            .context("the Service has no address")
    }

    /// Applies a route and waits until this controller's conditions for it have the current
    /// generation. Returns them by type, as `(status, reason, message)`.
    pub async fn route(&self, route: Value) -> anyhow::Result<objects::Conditions> {
        let kind = route["kind"].as_str().unwrap_or_default().to_owned();
        let name = route["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.apply(route).await?;
        eventually(&format!("the status of {kind} {name}"), async || {
            objects::route_conditions(&self.get(objects::GATEWAY, &kind, &name).await?)
        })
        .await
    }

    /// Applies a route; fails unless it is accepted and its references are resolved.
    pub async fn accepted_route(&self, route: Value) -> anyhow::Result<()> {
        let conditions = self.route(route).await?;
        for wanted in ["Accepted", "ResolvedRefs"] {
            let (status, reason, message) = conditions.of(wanted)?;
            anyhow::ensure!(
                status == "True",
                "{wanted} is {status}: {reason}: {message}"
            );
        }
        Ok(())
    }

    /// Returns how often the containers of a pod were restarted.
    pub async fn restarts(&self, pod: &str) -> anyhow::Result<u64> {
        let pod = self.get("v1", "Pod", pod).await?;
        Ok(objects::restarts(&pod))
    }
}
