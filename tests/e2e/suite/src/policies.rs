//! Policies that tests apply, and their statuses.

use anyhow::Context;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::objects::{self, Conditions};
use crate::{TestNamespace, eventually};

/// The API version of Weft's policies.
pub const VERSION: &str = "policy.weft.dev/v1alpha1";

/// Returns an AuthorizationPolicy.
pub fn authorization_policy(name: &str, action: &str, targets: Value, rules: Value) -> Value {
    json!({
        "apiVersion": VERSION, "kind": "AuthorizationPolicy", "metadata": {"name": name},
        "spec": {"targetRefs": targets, "action": action, "rules": rules},
    })
}

/// Returns a TrafficPolicy with defaults.
pub fn traffic_policy(name: &str, targets: Value, defaults: Value) -> Value {
    json!({
        "apiVersion": VERSION, "kind": "TrafficPolicy", "metadata": {"name": name},
        "spec": {"targetRefs": targets, "defaults": defaults},
    })
}

/// Returns a source: a service account of the policy's namespace.
pub fn account(name: &str) -> Value {
    json!({"type": "ServiceAccount", "serviceAccount": {"name": name}})
}

/// Sets the annotation `weft.dev/authorization-default` of the namespace; `null` removes it.
pub async fn set_default(ns: &TestNamespace, value: Value) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"annotations": {"weft.dev/authorization-default": value}}});
    let namespaces = ns.api("v1", "Namespace");
    let patched = namespaces
        .patch(
            &ns.namespace,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await;
    patched.map(drop).context("annotating the namespace")
}

impl TestNamespace {
    /// Applies a policy, and waits until every proxy that it concerns has acknowledged it.
    pub async fn policy(&self, policy: Value) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&policy["kind"]), text(&policy["metadata"]["name"]));
        self.apply(policy).await?;
        eventually(&format!("{kind} {name} to be programmed"), async || {
            let conditions = self.conditions_of(&kind, &name).await?;
            for wanted in ["Accepted", "weft.dev/Programmed"] {
                anyhow::ensure!(conditions.of(wanted)?.0 == "True", "{conditions}");
            }
            Ok(())
        })
        .await
    }

    /// Waits for the conditions of a policy's current generation for its first target.
    pub async fn policy_conditions(&self, kind: &str, name: &str) -> anyhow::Result<Conditions> {
        eventually(&format!("the status of {kind} {name}"), async || {
            self.conditions_of(kind, name).await
        })
        .await
    }

    async fn conditions_of(&self, kind: &str, name: &str) -> anyhow::Result<Conditions> {
        let policy = self.get(VERSION, kind, name).await?;
        let first = &policy["status"]["ancestors"][0];
        objects::conditions(&first["conditions"], &policy["metadata"]["generation"])
    }

    /// Deletes a policy.
    pub async fn remove_policy(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        let policies = self.api(VERSION, kind);
        let removed = policies.delete(name, &DeleteParams::default()).await;
        removed
            .map(drop)
            .with_context(|| format!("deleting {kind} {name}"))
    }
}
