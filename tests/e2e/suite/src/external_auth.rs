//! The external authorization server of the cluster tests
//! (`tests/e2e/cluster/images/echo-advanced/authorizer`), and filters that ask it.

use serde_json::{Value, json};

use crate::TestNamespace;
use crate::objects;

/// `tests/e2e/suite/run` loads it.
const IMAGE: &str = "weft.dev/authorizer:test";

/// Returns an ExternalAuth filter that asks the server `authorizer` by this protocol.
pub fn filter(protocol: &str) -> Value {
    let mut of = json!({
        "protocol": protocol,
        "backendRef": {"name": "authorizer", "port": if protocol == "HTTP" { 80 } else { 9000 }},
        "forwardBody": {"maxSize": 1024},
    });
    of[protocol.to_lowercase()] = match protocol {
        "HTTP" => json!({
            "allowedHeaders": ["cookie"],
            "allowedResponseHeaders": ["x-auth-request-user", "x-auth-request-path"],
        }),
        _ => json!({"allowedHeaders": ["cookie"]}),
    };
    json!({"type": "ExternalAuth", "externalAuth": of})
}

impl TestNamespace {
    /// Deploys the server behind the Service `authorizer`, and waits until it is ready.
    pub async fn deploy_authorizer(&self) -> anyhow::Result<()> {
        let mut pod = objects::pod("authorizer", "reviews", json!({"app": "authorizer"}), &[]);
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = IMAGE.into();
        container["command"] = json!(["/authorizer"]);
        container["readinessProbe"] = json!({"tcpSocket": {"port": 9000}, "periodSeconds": 1});
        self.apply(pod).await?;
        self.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "authorizer"},
            "spec": {"selector": {"app": "authorizer"}, "ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "grpc", "port": 9000, "targetPort": 9000},
            ]},
        }))
        .await?;
        self.wait_until_ready("authorizer").await.map(drop)
    }
}
