//! Kubernetes objects that tests apply, and values read from them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use serde_json::{Value, json};

pub const GATEWAY: &str = "gateway.networking.k8s.io/v1";
pub const CONTROLLER_NAME: &str = "weft.dev/mesh-controller";
const IMAGE: &str = "weft/shop:0.1.0";

/// Returns a namespace labelled with the run of the tests.
pub fn namespace(name: &str, run: &str, injected: bool) -> Value {
    let mut labels = json!({"weft.dev/e2e": run});
    if injected {
        labels["weft.dev/inject"] = "enabled".into();
    }
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": labels, "annotations": {"weft.dev/access-log": "all"}},
    })
}

pub fn account(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name},
        "automountServiceAccountToken": false,
    })
}

/// Returns a pod with one container `shop` that runs `weft-shop` with these arguments.
pub fn pod(name: &str, account: &str, labels: Value, arguments: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": pod_spec(account, arguments),
    })
}

fn pod_spec(account: &str, arguments: &[&str]) -> Value {
    json!({
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 2,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container("shop", arguments)],
    })
}

pub fn container(name: &str, arguments: &[&str]) -> Value {
    json!({
        "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": arguments,
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
    })
}

/// Returns a pod to send requests from.
pub fn client(name: &str) -> Value {
    pod(name, "client", json!({"app": name}), &["idle"])
}

/// Returns a reviews pod: HTTP on 8080, gRPC on 9000, TCP echo on 7000, and TCP with a greeting by
/// the server on 7001.
pub fn reviews(version: &str) -> Value {
    let arguments = [
        "reviews",
        "--version",
        version,
        "--echo-port",
        "7000",
        "--greet-port",
        "7001",
    ];
    let labels = json!({"app": "reviews", "version": version});
    let mut pod = pod(&format!("reviews-{version}"), "reviews", labels, &arguments);
    // Generous limits, so that an overloaded machine does not make the pod unready.
    pod["spec"]["containers"][0]["readinessProbe"] = json!({
        "httpGet": {"path": "/healthz", "port": 8080},
        "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 10,
    });
    // Spread over nodes, so that traffic crosses between them.
    pod["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "reviews"}},
    }]);
    pod
}

/// Returns a reviews pod that answers requests for reviews with status 503.
pub fn failing_reviews(version: &str) -> Value {
    let mut pod = reviews(version);
    let arguments = &mut pod["spec"]["containers"][0]["args"];
    if let Some(arguments) = arguments.as_array_mut() {
        arguments.push(json!("--failing"));
    }
    pod
}

/// Returns a Service with the ports of a reviews pod.
pub fn service(name: &str, selector: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "grpc", "port": 9000, "targetPort": 9000},
            {"name": "echo", "port": 7000, "targetPort": 7000},
            {"name": "greet", "port": 7001, "targetPort": 7001},
        ]},
    })
}

/// Returns the `addressType` of an EndpointSlice that holds the address.
pub fn address_type(address: &str) -> &'static str {
    if address.contains(':') {
        "IPv6"
    } else {
        "IPv4"
    }
}

/// Returns a Job of one pod with an init container; each container sends one request to the URL.
pub fn job(name: &str, url: &str) -> Value {
    let mut spec = pod_spec("client", &["load", "--url", url]);
    spec["restartPolicy"] = "Never".into();
    spec["initContainers"] = json!([container("early", &["load", "--url", url])]);
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"job": name}}, "spec": spec}},
    })
}

/// Returns an HTTPRoute on port 80 of the Service `reviews`.
pub fn http_route(name: &str, rules: Value) -> Value {
    route("HTTPRoute", name, "reviews", 80, rules)
}

/// Returns a GRPCRoute on port 9000 of the Service `reviews`.
pub fn grpc_route(name: &str, rules: Value) -> Value {
    route("GRPCRoute", name, "reviews", 9000, rules)
}

pub fn route(kind: &str, name: &str, service: &str, port: u16, rules: Value) -> Value {
    json!({
        "apiVersion": GATEWAY, "kind": kind, "metadata": {"name": name},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service, "port": port}], "rules": rules},
    })
}

/// Returns a Deployment of this pod that adds a pod before it removes one in a rollout.
pub fn deployment(pod: &Value, replicas: u32) -> Value {
    let (name, labels) = (&pod["metadata"]["name"], &pod["metadata"]["labels"]);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": pod["spec"]},
        },
    })
}

/// Returns the pod, pinned to this node.
pub fn on_node(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    pod
}

/// Returns a weighted backend reference to port 80 of the Service of a version.
pub fn to(version: &str, weight: u32) -> Value {
    json!({"name": format!("reviews-{version}"), "port": 80, "weight": weight})
}

/// Returns a match of one exact header.
pub fn header(name: &str, value: &str) -> Value {
    json!({"headers": [{"name": name, "value": value}]})
}

/// Returns a match of a path prefix.
pub fn prefix(path: &str) -> Value {
    json!({"path": {"type": "PathPrefix", "value": path}})
}

/// Conditions by type, with status, reason and message.
#[derive(Debug)]
pub struct Conditions(BTreeMap<String, (String, String, String)>);

impl Conditions {
    pub fn of(&self, name: &str) -> anyhow::Result<(&str, &str, &str)> {
        let (status, reason, message) = self
            .0
            .get(name)
            .with_context(|| format!("no condition {name}, only {self}"))?;
        Ok((status, reason, message))
    }

    /// Fails unless the condition is False with this reason and its message contains all of
    /// `words`.
    pub fn is_false(&self, name: &str, reason: &str, words: &[&str]) -> anyhow::Result<()> {
        let (status, seen, message) = self.of(name)?;
        anyhow::ensure!(
            status == "False" && seen == reason,
            "{name} should be False, {reason}: {self}"
        );
        for word in words {
            anyhow::ensure!(
                message.contains(word),
                "the message of {name} should contain {word:?}: {message}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (status, reason, message)) in &self.0 {
            write!(f, "{name}={status} ({reason}: {message}) ")?;
        }
        Ok(())
    }
}

/// Returns the conditions that the mesh controller set on a route; fails unless all have the
/// current generation.
pub fn route_conditions(route: &Value) -> anyhow::Result<Conditions> {
    conditions_by(route, CONTROLLER_NAME)
}

/// Returns the conditions that a controller set for the first parent of a route; fails unless all
/// have the current generation.
pub fn conditions_by(route: &Value, controller: &str) -> anyhow::Result<Conditions> {
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let mut ours = parents.filter(|parent| parent["controllerName"] == controller);
    let parent = ours
        .next()
        .with_context(|| format!("no status of {controller}: {}", route["status"]))?;
    conditions(&parent["conditions"], &route["metadata"]["generation"])
}

/// Parses conditions; fails if one has another generation.
pub fn conditions(list: &Value, generation: &Value) -> anyhow::Result<Conditions> {
    let mut conditions = BTreeMap::new();
    for condition in list.as_array().into_iter().flatten() {
        anyhow::ensure!(
            &condition["observedGeneration"] == generation,
            "the condition is not of generation {generation}: {condition}"
        );
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        conditions.insert(
            text("type"),
            (text("status"), text("reason"), text("message")),
        );
    }
    anyhow::ensure!(!conditions.is_empty(), "no conditions");
    Ok(Conditions(conditions))
}

/// Returns how often the containers of a pod were restarted.
pub fn restarts(pod: &Value) -> u64 {
    let of = |list: &Value| -> u64 {
        let counts = list.as_array().into_iter().flatten();
        counts
            .map(|status| status["restartCount"].as_u64().unwrap_or(0))
            .sum()
    };
    of(&pod["status"]["initContainerStatuses"]) + of(&pod["status"]["containerStatuses"])
}

/// Returns the names in a list of containers.
pub fn names(containers: &Value) -> Vec<&str> {
    let containers = containers.as_array().into_iter().flatten();
    containers
        .filter_map(|container| container["name"].as_str())
        .collect()
}
