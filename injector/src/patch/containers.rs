//! The two containers and the volume that a pod is given. They decide nothing: all choices are in the
//! settings and the overrides.

use serde_json::{Map, Value, json};

use super::drain::Times;
use super::{IDENTITY_VOLUME, INIT_CONTAINER, Overrides, PROXY_CONTAINER};
use crate::settings::{PROXY_UID, Ports, Quantity, Settings};

const IDENTITY_DIR: &str = "/var/run/weft";

/// Writes the redirect rules and ends. It runs as root because a capability that is added to a non-root user's
/// container is not effective there; it keeps NET_ADMIN alone.
pub(super) fn init(settings: &Settings, overrides: &Overrides) -> Value {
    let mut args = vec!["redirect".to_owned(), format!("--proxy-uid={PROXY_UID}")];
    for (flag, ports) in [
        ("--exclude-outbound-ports", &overrides.exclude_outbound),
        ("--exclude-inbound-ports", &overrides.exclude_inbound),
    ] {
        if !ports.is_empty() {
            args.push(format!("{flag}={ports}"));
        }
    }
    json!({
        "name": INIT_CONTAINER,
        "image": settings.init_image,
        "imagePullPolicy": settings.pull_policy.as_str(),
        "args": args,
        "resources": {
            "requests": { "cpu": "10m", "memory": "16Mi" },
            "limits": { "memory": "64Mi" },
        },
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
    })
}

/// The proxy as a native sidecar (an init container with `restartPolicy: Always`): it is ready before any of the
/// pod's own containers starts, outlives them, and does not keep a Job from ending.
pub(super) fn proxy(
    settings: &Settings,
    overrides: &Overrides,
    times: Times,
    probed: &Ports,
) -> Value {
    json!({
        "name": PROXY_CONTAINER,
        "image": settings.proxy_image,
        "imagePullPolicy": settings.pull_policy.as_str(),
        "restartPolicy": "Always",
        "env": env(settings, overrides, times, probed),
        "ports": [
            { "name": "weft-metrics", "containerPort": 15020, "protocol": "TCP" },
            { "name": "weft-ready", "containerPort": 15021, "protocol": "TCP" },
        ],
        // The pod's own containers wait for this one: two minutes for the certificate and the configuration,
        // then the proxy is started afresh.
        "startupProbe": probe(1, 120),
        "readinessProbe": probe(2, 3),
        "resources": resources(settings, overrides),
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
    })
}

/// The token by which the proxy proves its account to the controller, and the roots by which it knows the
/// controller. A projection of its own, so that pods without a mounted token have it too.
pub(super) fn identity_volume() -> Value {
    json!({
        "name": IDENTITY_VOLUME,
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                { "serviceAccountToken": { "audience": "weft.dev/ca", "expirationSeconds": 3600, "path": "token" } },
                { "configMap": { "name": "weft-roots", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            ],
        },
    })
}

fn env(settings: &Settings, overrides: &Overrides, times: Times, probed: &Ports) -> Vec<Value> {
    let log = overrides.log.as_ref().unwrap_or(&settings.log);
    let access_log = overrides.access_log.unwrap_or(settings.access_log);
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
        fixed("WEFT_ACCESS_LOG", access_log.as_str()),
        fixed("WEFT_WORKERS", &workers.get().to_string()),
        fixed("WEFT_LOG", log.as_str()),
        fixed("WEFT_WITHDRAW_SECONDS", &times.withdraw.to_string()),
        fixed("WEFT_DRAIN_SECONDS", &times.drain.to_string()),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    if let Some(grace) = overrides.outside_grace {
        env.push(fixed(
            "WEFT_OUTSIDE_GRACE_SECONDS",
            &grace.get().to_string(),
        ));
    }
    if !probed.is_empty() {
        env.push(fixed("WEFT_PROBE_PORTS", &probed.to_string()));
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

fn resources(settings: &Settings, overrides: &Overrides) -> Value {
    let set = &settings.resources;
    let pair = |cpu: Option<&Quantity>, memory: Option<&Quantity>| {
        let amounts = [("cpu", cpu), ("memory", memory)];
        Value::Object(
            amounts
                .into_iter()
                .filter_map(|(name, amount)| Some((name.to_owned(), json!(amount?.as_str()))))
                .collect::<Map<String, Value>>(),
        )
    };
    let requests = pair(
        overrides.cpu.as_ref().or(Some(&set.cpu)),
        overrides.memory.as_ref().or(Some(&set.memory)),
    );
    let limits = pair(
        overrides.cpu_limit.as_ref().or(set.cpu_limit.as_ref()),
        overrides
            .memory_limit
            .as_ref()
            .or(set.memory_limit.as_ref()),
    );
    json!({ "requests": requests, "limits": limits })
}
