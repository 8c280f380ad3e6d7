//! Which ports a policy fits: most concern requests.

use weft_ir::Protocol;

use crate::cluster::services::{PortInfo, ServiceAddressing, ServiceInfo};

/// Why a policy does not apply to a target: the reason of the condition, and its message.
pub(super) type Refusal = (&'static str, String);

/// Returns why a policy does not fit any of the ports. `of_connections`: it concerns connections of
/// bytes, too.
pub(super) fn fits(
    service: &ServiceInfo,
    ports: &[PortInfo],
    of_connections: bool,
) -> Option<String> {
    let id = &service.id;
    if service.addressing == ServiceAddressing::ExternalName {
        return Some(format!(
            "Service {id} is an ExternalName, and has no endpoints"
        ));
    }
    if of_connections {
        return None;
    }
    let all_opaque = !ports.is_empty() && ports.iter().all(is_opaque);
    let opaque = opaque(ports).filter(|_| all_opaque)?;
    Some(format!(
        "the policy concerns requests of HTTP, and Service {id} has {opaque}"
    ))
}

/// Describes the ports that are declared as something other than HTTP.
pub(super) fn opaque(ports: &[PortInfo]) -> Option<String> {
    let opaque = ports.iter().filter(|port| is_opaque(port));
    let numbers: Vec<String> = opaque.map(|port| port.number.to_string()).collect();
    match &numbers[..] {
        [] => None,
        [number] => Some(format!("port {number}, which is not HTTP")),
        numbers => Some(format!("ports {}, which are not HTTP", numbers.join(", "))),
    }
}

fn is_opaque(port: &PortInfo) -> bool {
    matches!(port.protocol, Protocol::Tcp | Protocol::Tls)
}
