//! The fields of a pod that the decision reads; others are not deserialized.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Pod {
    #[serde(deserialize_with = "or_default")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub(super) host_network: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) share_process_namespace: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) tolerations: Vec<Toleration>,
    pub(super) os: Option<Os>,
    pub(super) security_context: Option<SecurityContext>,
    pub(super) termination_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub(super) init_containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub(super) volumes: Vec<Named>,
    #[serde(deserialize_with = "or_default")]
    pub(super) image_pull_secrets: Vec<Named>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Os {
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Toleration {
    #[serde(deserialize_with = "or_default")]
    pub(super) key: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SecurityContext {
    pub(super) run_as_user: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub(super) privileged: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) capabilities: Capabilities,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capabilities {
    #[serde(deserialize_with = "or_default")]
    pub(super) add: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) image: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) command: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) restart_policy: Option<String>,
    #[serde(default)]
    pub(super) security_context: Option<SecurityContext>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ports: Vec<ContainerPort>,
    #[serde(default)]
    liveness_probe: Option<Handler>,
    #[serde(default)]
    readiness_probe: Option<Handler>,
    #[serde(default)]
    startup_probe: Option<Handler>,
    #[serde(default, deserialize_with = "or_default")]
    lifecycle: Lifecycle,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerPort {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) container_port: i64,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_port: i64,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Lifecycle {
    post_start: Option<Handler>,
    pre_stop: Option<Handler>,
}

/// A probe or a hook.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Handler {
    pub(super) http_get: Option<Action>,
    pub(super) tcp_socket: Option<Action>,
    pub(super) grpc: Option<Action>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Action {
    #[serde(deserialize_with = "or_default")]
    pub(super) host: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) path: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) scheme: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) port: Port,
}

/// A port of the same container, by number or name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Port {
    Number(i64),
    Name(String),
}

impl Default for Port {
    fn default() -> Self {
        Self::Number(0)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
}

impl Pod {
    pub(super) fn read(raw: &Value) -> Result<Self, serde_json::Error> {
        if !raw.is_object() {
            // serde would accept an array too, as the fields in order.
            return Err(serde::de::Error::custom("it is not an object"));
        }
        Self::deserialize(raw)
    }

    /// Returns init containers and containers, in the order in which they start.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec
            .init_containers
            .iter()
            .chain(&self.spec.containers)
    }
}

impl Container {
    /// Returns probes and hooks with the names of their fields.
    pub(super) fn handlers(&self) -> impl Iterator<Item = (&'static str, &Handler)> {
        let handlers = [
            ("livenessProbe", &self.liveness_probe),
            ("readinessProbe", &self.readiness_probe),
            ("startupProbe", &self.startup_probe),
            ("postStart", &self.lifecycle.post_start),
            ("preStop", &self.lifecycle.pre_stop),
        ];
        handlers
            .into_iter()
            .filter_map(|(name, handler)| Some((name, handler.as_ref()?)))
    }

    /// Returns the number of `port`.
    pub(super) fn number(&self, port: &Port) -> Option<i64> {
        match port {
            Port::Number(number) => Some(*number),
            Port::Name(name) => {
                let named = self.ports.iter().find(|port| port.name == *name);
                named.map(|port| port.container_port)
            }
        }
    }
}

impl ContainerPort {
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.protocol.as_str(), "" | "TCP")
    }
}

impl Handler {
    /// Returns the network action on this pod, if it has one.
    pub(super) fn action(&self) -> Option<&Action> {
        let action = self.http_get.as_ref().or(self.tcp_socket.as_ref());
        let action = action.or(self.grpc.as_ref());
        action.filter(|action| action.host.is_empty())
    }
}

/// Deserializes `null` as absent, as Kubernetes does.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
