//! Real servers as applications: nginx, haproxy, Python, Node and Go, and a client that sends them
//! exchanges of HTTP/1.1 as they are written (`tests/e2e/suite/servers`).

use anyhow::Context;
use serde_json::{Value, json};

use crate::TestNamespace;
use crate::objects;

/// `tests/e2e/suite/run` loads it.
const IMAGE: &str = "weft.dev/servers:test";

/// Name, and command.
pub const SERVERS: [(&str, &[&str]); 5] = [
    (
        "nginx",
        &["/usr/sbin/nginx", "-e", "stderr", "-c", "/srv/nginx.conf"],
    ),
    (
        "haproxy",
        &["/usr/sbin/haproxy", "-db", "-f", "/srv/haproxy.cfg"],
    ),
    ("python", &["/usr/bin/python3", "/srv/server.py"]),
    ("node", &["/usr/bin/node", "/srv/server.js"]),
    ("go", &["/srv/go-server"]),
];

/// Returns a pod of the image that runs a command.
fn pod(name: &str, command: &[&str], meshed: bool) -> Value {
    let mut pod = objects::pod(name, "servers", json!({"app": name}), &[]);
    if !meshed {
        pod["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
    }
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = IMAGE.into();
    container["command"] = json!(command);
    container["args"] = json!([]);
    container["resources"] = json!({"requests": {"cpu": "5m", "memory": "32Mi"}});
    pod
}

impl TestNamespace {
    /// Deploys a pod from which exchanges can be sent.
    pub async fn deploy_raw_client(&self, name: &str, meshed: bool) -> anyhow::Result<()> {
        let wait = "import signal; signal.pause()";
        self.apply(pod(name, &["/usr/bin/python3", "-c", wait], meshed))
            .await
            .map(drop)
    }

    /// Deploys a server behind a Service of its name, port 80.
    pub async fn deploy_server(
        &self,
        name: &str,
        command: &[&str],
        meshed: bool,
    ) -> anyhow::Result<()> {
        let mut pod = pod(name, command, meshed);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
        self.apply(pod).await?;
        self.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        }))
        .await
        .map(drop)
    }

    /// Runs the client of raw exchanges in a pod, and returns what it prints.
    pub async fn raw_exchanges(
        &self,
        pod: &str,
        address: (&str, &str),
        server: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Value> {
        let (host, port) = address;
        let mut command = vec!["/usr/bin/python3", "/srv/client.py", host, port, server];
        command.extend(arguments);
        let output = self.exec(pod, "shop", &command).await?;
        serde_json::from_str(output.trim()).with_context(|| format!("the client printed {output}"))
    }
}
