//! Renders the two containers and the volume that are added to a pod, from the settings and the
//! overrides.

use serde_json::{Value, json};

use super::drain::Times;
use super::pod::Named;
use super::{IDENTITY_VOLUME, INIT_CONTAINER, Overrides, PROXY_CONTAINER};
use crate::settings::{MtlsOutbound, PROXY_UID, Ports, ProbeSources, Resources, Settings};

const IDENTITY_DIR: &str = "/var/run/weft";

/// Renders the init container that installs the redirect rules. It runs as root because an added
/// capability is not effective for other users; it has NET_ADMIN alone.
pub(super) fn init(settings: &Settings, overrides: &Overrides, resources: &Resources) -> Value {
    let format = overrides.log_format.unwrap_or(settings.log_format);
    let container = json!({
        "name": INIT_CONTAINER,
        "image": settings.init_image,
        "imagePullPolicy": settings.pull_policy.as_str(),
        "args": init_args(overrides),
        "env": [{ "name": "WEFT_LOG_FORMAT", "value": format.as_str() }],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    with_resources(container, resources)
}

/// Adds the resources. Empty ones are omitted, as the API server drops them and a later apply would
/// show a difference.
fn with_resources(mut container: Value, resources: &Resources) -> Value {
    if let Some(resources) = resources.render() {
        container["resources"] = resources;
    }
    container
}

pub(super) fn init_args(overrides: &Overrides) -> Vec<String> {
    let mut args = vec!["redirect".to_owned(), format!("--proxy-uid={PROXY_UID}")];
    for (flag, ports) in [
        ("--exclude-outbound-ports", &overrides.exclude_outbound),
        ("--exclude-inbound-ports", &overrides.exclude_inbound),
    ] {
        if !ports.is_empty() {
            args.push(format!("{flag}={ports}"));
        }
    }
    args
}

/// Renders the proxy as a native sidecar (an init container with `restartPolicy: Always`): it is
/// ready before the pod's containers start, ends after them, and does not prevent a Job from
/// completing.
pub(super) fn proxy(
    settings: &Settings,
    overrides: &Overrides,
    resources: &Resources,
    times: Times,
    probed: &Ports,
) -> Value {
    let container = json!({
        "name": PROXY_CONTAINER,
        "image": settings.proxy_image,
        "imagePullPolicy": settings.pull_policy.as_str(),
        "restartPolicy": "Always",
        "env": env(settings, overrides, times, probed),
        "ports": [
            { "name": "weft-metrics", "containerPort": 15020, "protocol": "TCP" },
            { "name": "weft-ready", "containerPort": 15021, "protocol": "TCP" },
        ],
        // The pod's containers wait for this probe: the proxy has two minutes for its certificate
        // and its configuration, then it is restarted.
        "startupProbe": probe(1, 120),
        "readinessProbe": probe(2, 3),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": IDENTITY_VOLUME, "mountPath": IDENTITY_DIR, "readOnly": true },
        ],
    });
    with_resources(container, resources)
}

/// Returns references to the pull Secrets that the pod does not have already.
pub(super) fn pull_secrets(settings: &Settings, own: &[Named]) -> Vec<Value> {
    let known = |name: &String| own.iter().any(|secret| secret.name == *name);
    let more = settings.pull_secrets.iter().filter(|name| !known(name));
    more.map(|name| json!({ "name": name })).collect()
}

/// Renders the volume with the token that authenticates the proxy to the controller, and the roots
/// that authenticate the controller. It is a separate projection, so that pods without a mounted
/// token have it too. The controller's addresses are for pods whose DNS does not resolve its name,
/// so they are optional.
pub(super) fn identity_volume() -> Value {
    json!({
        "name": IDENTITY_VOLUME,
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                { "serviceAccountToken": { "audience": "weft.dev/ca", "expirationSeconds": 3600, "path": "token" } },
                { "configMap": { "name": "weft-roots", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                {
                    "configMap": {
                        "name": "weft-roots",
                        "items": [{ "key": "controller", "path": "controller" }],
                        "optional": true,
                    },
                },
            ],
        },
    })
}

fn env(settings: &Settings, overrides: &Overrides, times: Times, probed: &Ports) -> Vec<Value> {
    let log = overrides.log.as_ref().unwrap_or(&settings.log);
    let access_log = overrides.access_log.unwrap_or(settings.access_log);
    let format = overrides.log_format.unwrap_or(settings.log_format);
    let workers = overrides.workers.unwrap_or(settings.workers);
    let fixed = |name: &str, value: &str| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let mut env = vec![
        fixed("WEFT_MODE", "sidecar"),
        fixed("WEFT_CONTROLLER", &settings.controller),
        fixed("WEFT_CONTROLLER_IDENTITY", &settings.controller_identity),
        fixed("WEFT_TRUST_DOMAIN", &settings.trust_domain),
        fixed("WEFT_TOKEN", &format!("{IDENTITY_DIR}/token")),
        fixed("WEFT_ROOTS", &format!("{IDENTITY_DIR}/ca.crt")),
        fixed(
            "WEFT_CONTROLLER_ADDRESSES",
            &format!("{IDENTITY_DIR}/controller"),
        ),
        fixed("WEFT_ACCESS_LOG", access_log.as_str()),
        fixed("WEFT_WORKERS", &workers.get().to_string()),
        fixed("WEFT_LOG", log.as_str()),
        fixed("WEFT_LOG_FORMAT", format.as_str()),
        fixed("WEFT_WITHDRAW_SECONDS", &times.withdraw.to_string()),
        fixed("WEFT_DRAIN_SECONDS", &times.drain.to_string()),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IPS", "status.podIPs"),
        field("HOST_IP", "status.hostIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    if let Some(grace) = overrides.outside_grace {
        env.push(fixed(
            "WEFT_OUTSIDE_GRACE_SECONDS",
            &grace.get().to_string(),
        ));
    }
    if overrides.mtls_outbound.unwrap_or(settings.mtls_outbound) == MtlsOutbound::Required {
        env.push(fixed("WEFT_MTLS_OUTBOUND", "required"));
        let ranges = settings.cluster_ranges.as_str();
        if !ranges.is_empty() {
            env.push(fixed("WEFT_CLUSTER_RANGES", ranges));
        }
    }
    if !probed.is_empty() {
        env.push(fixed("WEFT_PROBE_PORTS", &probed.to_string()));
    }
    if settings.probe_sources == ProbeSources::Node {
        env.push(fixed("WEFT_PROBE_SOURCES", "node"));
        let networks = settings.probe_networks.as_str();
        if !networks.is_empty() {
            env.push(fixed("WEFT_PROBE_NETWORKS", networks));
        }
    }
    env
}

fn probe(period_seconds: u32, failure_threshold: u32) -> Value {
    json!({
        "httpGet": { "path": "/ready", "port": 15021, "scheme": "HTTP" },
        "periodSeconds": period_seconds,
        "timeoutSeconds": 1,
        "failureThreshold": failure_threshold,
    })
}
