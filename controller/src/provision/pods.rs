//! Renders the pod template of a gateway's Deployment. It does not depend on listeners, so that
//! their changes cause no rollout.

use serde_json::{Value, json};
use weft_translate::Provision;

use super::ProxySettings;
use crate::kubernetes::{FIELD_MANAGER, MANAGED_BY};

/// The user and group of the proxy's image.
const USER: u32 = 2460;
const IDENTITY_DIR: &str = "/var/run/weft";
/// How long the preStop hook may delay SIGTERM, unless the grace for outside clients is longer.
const WITHDRAW: u32 = 8;
const DRAIN: u32 = 50;
/// Reserve of the termination grace period for the kubelet.
const RESERVE: u32 = 2;

/// The selector of the Deployment, the Service and the disruption budget. A Deployment's selector
/// is immutable.
pub(super) fn selector(of: &Provision) -> Value {
    json!({
        weft_translate::GATEWAY_LABEL: of.gateway.name,
        weft_translate::CLASS_LABEL: of.class,
    })
}

pub(super) fn template(of: &Provision, settings: &ProxySettings) -> Value {
    let mut labels = json!(of.pod_labels);
    labels[MANAGED_BY] = json!(FIELD_MANAGER);
    labels["app.kubernetes.io/name"] = json!("weft-gateway");
    // The proxy is the pod's own container: an injected one would intercept its traffic.
    labels["weft.dev/inject"] = json!("disabled");
    let secrets = settings
        .pull_secrets
        .iter()
        .map(|name| json!({ "name": name }));
    json!({
        "metadata": { "labels": labels, "annotations": of.pod_annotations },
        "spec": {
            "serviceAccountName": of.name,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": secrets.collect::<Vec<_>>(),
            "terminationGracePeriodSeconds": withdraw(of) + DRAIN + RESERVE,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
                // Ports under 1024 without a capability: a safe sysctl, of the pod's own network
                // namespace.
                "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
            },
            "affinity": { "podAntiAffinity": apart(of) },
            "containers": [container(of, settings)],
            "volumes": [identity_volume()],
        },
    })
}

/// Prefers different zones and different nodes for replicas. Not by topologySpreadConstraints: with
/// these the scheduler ignores nodes without the topology's label, and spreads nothing in clusters
/// whose nodes have no zone.
fn apart(of: &Provision) -> Value {
    let term = |topology: &str| {
        json!({
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": topology,
                "labelSelector": { "matchLabels": selector(of) },
            },
        })
    };
    json!({
        "preferredDuringSchedulingIgnoredDuringExecution": [
            term("topology.kubernetes.io/zone"),
            term("kubernetes.io/hostname"),
        ],
    })
}

/// How long the preStop hook may delay SIGTERM, in seconds.
fn withdraw(of: &Provision) -> u32 {
    WITHDRAW.max(of.outside_grace)
}

fn container(of: &Provision, settings: &ProxySettings) -> Value {
    let or = |asked: &std::collections::BTreeMap<String, String>, set| {
        if asked.is_empty() {
            json!(set)
        } else {
            json!(asked)
        }
    };
    json!({
        "name": "weft-proxy",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "env": env(of, settings),
        "ports": [
            { "name": "weft-metrics", "containerPort": 15020, "protocol": "TCP" },
            { "name": "weft-ready", "containerPort": 15021, "protocol": "TCP" },
        ],
        "startupProbe": ready(1, 120),
        "readinessProbe": ready(2, 3),
        "livenessProbe": { "tcpSocket": { "port": 15021 }, "periodSeconds": 20, "failureThreshold": 3 },
        "lifecycle": { "preStop": { "httpGet": { "path": "/drain", "port": 15021, "scheme": "HTTP" } } },
        "resources": {
            "requests": or(&of.resources.requests, &settings.resources.requests),
            "limits": or(&of.resources.limits, &settings.resources.limits),
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [{ "name": "weft-identity", "mountPath": IDENTITY_DIR, "readOnly": true }],
    })
}

fn env(of: &Provision, settings: &ProxySettings) -> Value {
    let fixed = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| {
        let field = json!({ "apiVersion": "v1", "fieldPath": path });
        json!({ "name": name, "valueFrom": { "fieldRef": field } })
    };
    json!([
        fixed("WEFT_MODE", "gateway"),
        fixed("WEFT_CONTROLLER", &settings.controller),
        fixed(
            "WEFT_CONTROLLER_IDENTITY",
            &settings.controller_identity.to_string()
        ),
        fixed("WEFT_TRUST_DOMAIN", settings.trust_domain.as_str()),
        fixed("WEFT_TOKEN", &format!("{IDENTITY_DIR}/token")),
        fixed("WEFT_ROOTS", &format!("{IDENTITY_DIR}/ca.crt")),
        fixed(
            "WEFT_CONTROLLER_ADDRESSES",
            &format!("{IDENTITY_DIR}/controller")
        ),
        fixed("WEFT_ACCESS_LOG", &settings.access_log),
        fixed("WEFT_WORKERS", &settings.workers.to_string()),
        fixed("WEFT_LOG", &settings.log),
        fixed("WEFT_LOG_FORMAT", settings.log_format.as_str()),
        fixed("WEFT_WITHDRAW_SECONDS", &withdraw(of).to_string()),
        fixed("WEFT_OUTSIDE_GRACE_SECONDS", &of.outside_grace.to_string()),
        fixed("WEFT_DRAIN_SECONDS", &DRAIN.to_string()),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IPS", "status.podIPs"),
        field("HOST_IP", "status.hostIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ])
}

fn ready(period: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": "/ready", "port": 15021, "scheme": "HTTP" },
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "failureThreshold": failures,
    })
}

/// The token that authenticates the proxy to the controller, and the roots that authenticate the
/// controller.
fn identity_volume() -> Value {
    let token = json!({ "audience": "weft.dev/ca", "expirationSeconds": 3600, "path": "token" });
    let roots = json!({ "name": "weft-roots", "items": [{ "key": "ca.crt", "path": "ca.crt" }] });
    // Used when the cluster's DNS does not answer.
    let addresses = json!({
        "name": "weft-roots",
        "items": [{ "key": "controller", "path": "controller" }],
        "optional": true,
    });
    json!({
        "name": "weft-identity",
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                { "serviceAccountToken": token },
                { "configMap": roots },
                { "configMap": addresses },
            ],
        },
    })
}
