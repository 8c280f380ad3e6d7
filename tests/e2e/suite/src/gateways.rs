//! Gateway objects for tests, and their statuses.

use anyhow::Context;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use crate::objects::{self, Conditions};
use crate::{TestNamespace, eventually};

pub const CONTROLLER_NAME: &str = "weft.dev/gateway-controller";

/// Returns a Gateway of Weft's class.
pub fn gateway(name: &str, listeners: Value) -> Value {
    json!({
        "apiVersion": objects::GATEWAY, "kind": "Gateway", "metadata": {"name": name},
        "spec": {"gatewayClassName": "weft", "listeners": listeners},
    })
}

/// Returns a listener without a hostname.
pub fn listener(name: &str, protocol: &str, port: u16) -> Value {
    json!({"name": name, "protocol": protocol, "port": port})
}

/// Returns an HTTPS listener on 443 for a host, with the certificate of a Secret.
pub fn https(name: &str, host: &str, secret: &str) -> Value {
    json!({
        "name": name, "protocol": "HTTPS", "port": 443, "hostname": host,
        "tls": {"certificateRefs": [{"name": secret}]},
    })
}

/// Returns a route on a Gateway, or on one of its listeners if `section` is not empty.
pub fn route(kind: &str, name: &str, gateway: &str, section: &str, rules: Value) -> Value {
    let mut parent = json!({"name": gateway});
    if !section.is_empty() {
        parent["sectionName"] = section.into();
    }
    json!({
        "apiVersion": objects::GATEWAY, "kind": kind, "metadata": {"name": name},
        "spec": {"parentRefs": [parent], "rules": rules},
    })
}

/// Returns a Secret of type `kubernetes.io/tls`.
pub fn tls_secret(name: &str, certificate: &str, key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "data": {"tls.crt": BASE64_STANDARD.encode(certificate), "tls.key": BASE64_STANDARD.encode(key)},
    })
}

/// Returns a ConfigMap with parameters.
pub fn parameters(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// Returns the Gateway with a reference to the ConfigMap of this name as its parameters.
pub fn with_parameters(mut gateway: Value, name: &str) -> Value {
    gateway["spec"]["infrastructure"]["parametersRef"] =
        json!({"group": "", "kind": "ConfigMap", "name": name});
    gateway
}

/// Returns the conditions of one listener; fails unless they have the current generation.
pub fn listener_conditions(gateway: &Value, name: &str) -> anyhow::Result<Conditions> {
    let mut all = gateway["status"]["listeners"]
        .as_array()
        .into_iter()
        .flatten();
    let found = all
        .find(|one| one["name"] == name)
        .with_context(|| format!("no status of listener {name}: {}", gateway["status"]))?;
    objects::conditions(&found["conditions"], &gateway["metadata"]["generation"])
}

/// Returns the conditions at the top of an object's status; fails unless they have the current
/// generation.
pub fn top_conditions(object: &Value) -> anyhow::Result<Conditions> {
    objects::conditions(
        &object["status"]["conditions"],
        &object["metadata"]["generation"],
    )
}

impl TestNamespace {
    /// Returns a handle for another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            client: self.client.clone(),
            namespace: namespace.to_owned(),
        }
    }

    /// Waits until the current generation of a Gateway is programmed, and returns its first
    /// address.
    pub async fn wait_until_programmed(&self, name: &str) -> anyhow::Result<String> {
        eventually(&format!("Gateway {name} to be programmed"), async || {
            let gateway = self.get(objects::GATEWAY, "Gateway", name).await?;
            let conditions = top_conditions(&gateway)?;
            anyhow::ensure!(conditions.of("Programmed")?.0 == "True", "{conditions}");
            let address = gateway["status"]["addresses"][0]["value"].as_str();
            address
                .map(str::to_owned)
                .context("the Gateway has no address")
        })
        .await
    }

    /// Applies a Gateway, waits until it is programmed, and returns its first address.
    pub async fn gateway(&self, gateway: Value) -> anyhow::Result<String> {
        let name = gateway["metadata"]["name"].as_str().unwrap_or_default();
        let name = name.to_owned();
        self.apply(gateway).await?;
        self.wait_until_programmed(&name).await
    }

    /// Applies a route of a Gateway, and waits until each of the Gateway's proxies has acknowledged
    /// it.
    pub async fn gateway_route(&self, route: Value) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&route["kind"]), text(&route["metadata"]["name"]));
        self.apply(route).await?;
        eventually(&format!("{kind} {name} to be programmed"), async || {
            let route = self.get(objects::GATEWAY, &kind, &name).await?;
            let conditions = objects::conditions_by(&route, CONTROLLER_NAME)?;
            for wanted in ["Accepted", "ResolvedRefs"] {
                anyhow::ensure!(conditions.of(wanted)?.0 == "True", "{conditions}");
            }
            let (_, reason, _) = conditions.of("weft.dev/Programmed")?;
            anyhow::ensure!(reason == "Programmed", "{conditions}");
            Ok(())
        })
        .await
    }

    /// Applies a Gateway `edge` and routes its HTTP listeners to version v1 of the reviews; returns
    /// its address.
    pub async fn deploy_gateway(&self, gateway: Value) -> anyhow::Result<String> {
        self.deploy_reviews("v1").await?;
        let address = self.gateway(gateway).await?;
        let rules = json!([{"backendRefs": [objects::to("v1", 1)]}]);
        self.gateway_route(route("HTTPRoute", "reviews", "edge", "", rules))
            .await?;
        Ok(address)
    }

    /// Waits until a Gateway has exactly `desired` pods, all ready and of the latest template.
    pub async fn gateway_pods(&self, name: &str, desired: u64) -> anyhow::Result<Vec<Value>> {
        eventually(
            &format!("{desired} ready pods of Gateway {name}"),
            async || {
                let deployment = format!("{name}-weft");
                let deployment = self.get("apps/v1", "Deployment", &deployment).await?;
                let status = &deployment["status"];
                let all = ["replicas", "updatedReplicas", "readyReplicas"];
                let done = status["observedGeneration"] == deployment["metadata"]["generation"]
                    && deployment["spec"]["replicas"] == desired
                    && all.iter().all(|field| status[*field] == desired);
                anyhow::ensure!(done, "its status is {status}");
                let labels = format!("gateway.networking.k8s.io/gateway-name={name}");
                let pods = self.list("v1", "Pod", &labels).await?;
                anyhow::ensure!(
                    pods.len() as u64 == desired,
                    "there are {} pods",
                    pods.len()
                );
                Ok(pods)
            },
        )
        .await
    }

    /// Deploys a reviews pod of this version behind the Service `reviews-VERSION`, and waits until
    /// it is ready.
    pub async fn deploy_reviews(&self, version: &str) -> anyhow::Result<()> {
        let selector = json!({"app": "reviews", "version": version});
        self.apply(objects::service(&format!("reviews-{version}"), selector))
            .await?;
        self.apply(objects::reviews(version)).await?;
        self.wait_until_ready(&format!("reviews-{version}"))
            .await
            .map(drop)
    }
}
