//! JSON Web Tokens of the cluster's own issuer, and policies on them.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::TestNamespace;
use crate::identity::requested_token;
use crate::policies::VERSION;

/// Returns an AuthenticationPolicy.
pub fn policy(name: &str, targets: Value, providers: Value) -> Value {
    json!({
        "apiVersion": VERSION, "kind": "AuthenticationPolicy", "metadata": {"name": name},
        "spec": {"targetRefs": targets, "providers": providers},
    })
}

/// Permits anybody to read the keys of the cluster's issuer while the namespace exists.
pub async fn permit_reading_keys(ns: &TestNamespace) -> anyhow::Result<()> {
    let namespace = ns.get("v1", "Namespace", &ns.namespace).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {
            "name": format!("{}-reads-keys", ns.namespace),
            // Deleted with the namespace.
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Namespace", "name": ns.namespace,
                "uid": namespace["metadata"]["uid"],
            }],
        },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:service-account-issuer-discovery",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Group",
            "name": "system:unauthenticated",
        }],
    });
    ns.apply(binding).await.map(drop)
}

/// Returns a token of a service account for an audience.
pub async fn of_account(
    ns: &TestNamespace,
    account: &str,
    audience: &str,
) -> anyhow::Result<String> {
    let spec = json!({"audiences": [audience], "expirationSeconds": 600});
    requested_token(ns, account, spec).await
}

/// Returns the cluster's issuer as a provider; its name is read from a token.
pub async fn provider(ns: &TestNamespace, audience: &str) -> anyhow::Result<Value> {
    let token = of_account(ns, "default", audience).await?;
    let claims = token.split('.').nth(1).context("the token has no claims")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    Ok(json!({
        "name": "cluster", "issuer": claims["iss"], "audiences": [audience],
        "jwks": {
            "uri": "https://kubernetes.default.svc/openid/v1/jwks",
            "caCertificateRefs": [{"name": "kube-root-ca.crt"}],
        },
        "claimsToHeaders": [{"claim": "sub", "header": "x-account"}],
    }))
}
