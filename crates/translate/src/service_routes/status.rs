//! The status of routes with regard to parents that are Services.
//!
//! Source: the comments of `RouteConditionType` in Gateway API's `shared_types.go`.

use weft_ir::{RouteKind, ServicePort};

use super::attach::{AttachedRoute, Attachments, ServiceAttachment};
use super::views::Routes;
use crate::conditions::condition;
use crate::output::{Condition, Controller};
use crate::routes::status::{PositionedStatus, check_usable, positioned_status, unsupported_note};

/// Returns the status of the route at `position`, or `None` if none of its parents is a Service.
pub(crate) fn route_status(
    position: usize,
    routes: &Routes,
    attached: &Attachments,
) -> Option<PositionedStatus> {
    let AttachedRoute { route, attachments } = routes[position].as_ref();
    if attachments.is_empty() {
        return None;
    }
    let parents = attachments.iter().map(|attachment| {
        let accepted = accepted(position, attachment, routes, attached);
        (attachment.position, &attachment.parent_ref, accepted)
    });
    Some(positioned_status(route, Controller::Mesh, &[], parents))
}

/// Reasons are checked in this order: no matching parent, no room on the port, another kind of
/// route takes precedence, no usable rule.
fn accepted(
    position: usize,
    attachment: &ServiceAttachment,
    routes: &Routes,
    attached: &Attachments,
) -> Condition {
    let route = &routes[position].route;
    let refused = |reason: &str, message: String| condition("Accepted", false, reason, message);
    let ports = match &attachment.ports {
        Ok(ports) => ports,
        Err(why) => return refused("NoMatchingParent", why.clone()),
    };
    let full: Vec<&str> = ports
        .iter()
        .filter_map(|port| attached.port_full_reason(port, position))
        .collect();
    if !full.is_empty() && full.len() == ports.len() {
        return refused("PortFull", full.join("; "));
    }
    let lost = lost_ports(position, attachment, ports, routes, attached);
    if !lost.is_empty() && lost.len() == ports.len() {
        let why = lost.join("; ");
        return refused(
            "Conflicted",
            format!("{}: {why}", precedence(route.id.kind)),
        );
    }
    if let Err(condition) = check_usable(route) {
        return condition;
    }
    let mut message = "the route is in effect".to_owned();
    if !lost.is_empty() {
        let why = lost.join("; ");
        let precedence = precedence(route.id.kind);
        message += &format!(", except where {precedence}: {why}");
    }
    if !full.is_empty() {
        message += &format!(", except where there is no room: {}", full.join("; "));
    }
    message += &unsupported_note(route);
    condition("Accepted", true, "Accepted", message)
}

/// Returns the ports where another route takes precedence, with that route.
fn lost_ports(
    position: usize,
    attachment: &ServiceAttachment,
    ports: &[ServicePort],
    routes: &Routes,
    attached: &Attachments,
) -> Vec<String> {
    let lost = ports.iter().filter_map(|port| {
        let winner = attached.winning_route(port, &attachment.consumer, position, routes)?;
        Some(format!(
            "on port {}, {} takes precedence",
            port.port, winner.id
        ))
    });
    lost.collect()
}

/// Returns the rule of precedence that routes of this kind lose by.
fn precedence(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Grpc | RouteKind::Http => "a GRPCRoute takes precedence over an HTTPRoute",
        RouteKind::Tls => "a GRPCRoute or HTTPRoute takes precedence over a TLSRoute",
        RouteKind::Tcp => {
            "a route of another kind, or an older TCPRoute, takes precedence over a TCPRoute"
        }
        RouteKind::Udp => "an older UDPRoute takes precedence over a UDPRoute",
    }
}
