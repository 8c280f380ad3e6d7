//! The condition Programmed of listeners: whether the proxies of the Gateway have acknowledged
//! their ports.
//!
//! Answers of proxies reach the replica that they are connected to. While no proxy of a Gateway is
//! connected to the replica that writes statuses, the condition of the same generation stays; a new
//! generation is not in force, unless other replicas run, which may have its proxies.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use weft_ir::{GatewayId, ResourceKey, Transport};
use weft_translate::objects::Pod;
use weft_translate::{ListenerStatus, Mesh};

use crate::subscribe::Registry;
use crate::subscribe::registry::{GatewayPod, Held};

/// The proxies of each Gateway that are connected to this replica.
#[derive(Debug, Default)]
pub(super) struct Listening {
    proxies: HashMap<GatewayId, Vec<GatewayPod>>,
    /// Whether other replicas of the controller run.
    others: bool,
}

/// Returns true if more than one replica of the controller runs, by the pods of the cluster.
pub(super) fn others(pods: &[Arc<Pod>]) -> bool {
    let is = |pod: &&Arc<Pod>| {
        let name = pod.metadata.labels.get("app.kubernetes.io/name");
        name.is_some_and(|name| name == "weft-controller") && pod.status.phase == "Running"
    };
    pods.iter().filter(is).count() > 1
}

impl Listening {
    pub(super) fn new(mesh: &Mesh, registry: &Registry, others: bool) -> Self {
        let of = |pod: &crate::watch::ObjectKey| mesh.gateway_of(&pod.namespace, &pod.name);
        let mut all: HashMap<GatewayId, Vec<GatewayPod>> = HashMap::new();
        for proxy in registry.gateways(|pod| of(pod).is_some()) {
            if let Some(gateway) = of(&proxy.pod) {
                all.entry(gateway.clone()).or_default().push(proxy);
            }
        }
        Self {
            proxies: all,
            others,
        }
    }

    /// Returns the listeners with their conditions from proxies. `before` is the object's existing
    /// status, `generation` that of the listeners.
    pub(super) fn of(
        &self,
        gateway: &GatewayId,
        listeners: &[ListenerStatus],
        before: Option<&Value>,
        generation: i64,
    ) -> Vec<ListenerStatus> {
        let proxies = self.proxies.get(gateway).map_or(&[][..], Vec::as_slice);
        let mut listeners = listeners.to_vec();
        for listener in &mut listeners {
            let Some(socket) = listener.socket else {
                continue;
            };
            let in_force = match proxies.is_empty() {
                false => in_force(proxies, socket),
                true if was_programmed(before, &listener.name, generation) => {
                    Ok(IN_FORCE.to_owned())
                }
                true if self.others => Ok(OTHER_REPLICA.to_owned()),
                true => Err(NO_PROXY.to_owned()),
            };
            for condition in &mut listener.conditions {
                if condition.kind == "Programmed" && condition.status {
                    match &in_force {
                        Ok(words) => condition.message.clone_from(words),
                        Err(why) => {
                            condition.status = false;
                            condition.reason = "Pending".to_owned();
                            condition.message.clone_from(why);
                        }
                    }
                }
            }
        }
        listeners
    }
}

const IN_FORCE: &str = "all connected proxies of the Gateway have the listener in force";
const OTHER_REPLICA: &str = "the listener is configured; the proxies of the Gateway are not connected to the \
                             controller that writes this status";
const NO_PROXY: &str = "no proxy of the Gateway is connected to the controller yet";

/// Returns the message for a listener that is in force at a proxy, or why it is not.
fn in_force(proxies: &[GatewayPod], (transport, port): (Transport, u16)) -> Result<String, String> {
    let key = ResourceKey::Port(transport, port);
    let held = |proxy: &&GatewayPod| {
        let held = proxy.ports.get(&key).map(|port| &port.held);
        matches!(held, Some(Held::InForce(_)))
    };
    let have = proxies.iter().filter(held).count();
    let refused = proxies
        .iter()
        .find_map(|proxy| match &proxy.ports.get(&key)?.held {
            // The reason is logged: text of a proxy does not belong in a status.
            Held::Refused(_) => Some(format!("; {} rejected it", proxy.pod)),
            Held::Withheld(_, reason) => {
                Some(format!("; it was not sent to {}: {reason}", proxy.pod))
            }
            Held::InForce(_) => None,
        });
    let refused = refused.unwrap_or_default();
    let all = proxies.len();
    if have == all {
        Ok(IN_FORCE.to_owned())
    } else if have > 0 {
        Ok(format!(
            "{have} of {all} connected proxies of the Gateway have the listener in force{refused}"
        ))
    } else {
        Err(format!(
            "none of {all} connected proxies of the Gateway has the listener in force yet{refused}"
        ))
    }
}

/// Returns true if the existing status has the listener programmed in this generation.
fn was_programmed(status: Option<&Value>, name: &str, generation: i64) -> bool {
    let text = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).map(str::to_owned);
    let named = |of: &&Value, field: &str, value: &str| text(of, field).as_deref() == Some(value);
    let listeners = status.and_then(|status| status.get("listeners")?.as_array());
    let listener = listeners
        .into_iter()
        .flatten()
        .find(|of| named(of, "name", name));
    let conditions = listener.and_then(|listener| listener.get("conditions")?.as_array());
    conditions.into_iter().flatten().any(|of| {
        named(&of, "type", "Programmed")
            && named(&of, "status", "True")
            && of.get("observedGeneration").and_then(Value::as_i64) == Some(generation)
    })
}
