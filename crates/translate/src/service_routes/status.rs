//! What the statuses of routes say about parents that are Services.
//!
//! Source: the comments of `RouteConditionType` in Gateway API's `shared_types.go`.

use weft_ir::{RouteKind, ServicePort};

use super::attach::{Attached, Attachment, Attachments};
use super::views::Routes;
use crate::conditions::condition;
use crate::output::{Condition, Controller};
use crate::routes::status::{Placed, ignored, placed, works};

/// The status of the route at `place`; `None` when none of its parents is ours.
pub(crate) fn route_status(
    place: usize,
    routes: &Routes,
    attached: &Attachments,
) -> Option<Placed> {
    let Attached { route, attachments } = routes[place].as_ref();
    if attachments.is_empty() {
        return None;
    }
    let parents = attachments.iter().map(|attachment| {
        let accepted = accepted(place, attachment, routes, attached);
        (attachment.place, &attachment.parent_ref, accepted)
    });
    Some(placed(route, Controller::Mesh, &[], parents))
}

/// In order: no such parent, given way to another kind of route, nothing in it that works.
fn accepted(
    place: usize,
    attachment: &Attachment,
    routes: &Routes,
    attached: &Attachments,
) -> Condition {
    let route = &routes[place].route;
    let refused = |reason: &str, message: String| condition("Accepted", false, reason, message);
    let ports = match &attachment.ports {
        Ok(ports) => ports,
        Err(why) => return refused("NoMatchingParent", why.clone()),
    };
    let full: Vec<&str> = ports
        .iter()
        .filter_map(|port| attached.no_room(port, place))
        .collect();
    if !full.is_empty() && full.len() == ports.len() {
        return refused("PortFull", full.join("; "));
    }
    let lost = lost_ports(place, attachment, ports, routes, attached);
    if !lost.is_empty() && lost.len() == ports.len() {
        let why = lost.join("; ");
        return refused(
            "Conflicted",
            format!("{}: {why}", precedence(route.id.kind)),
        );
    }
    if let Err(condition) = works(route) {
        return condition;
    }
    let mut message = "the route is in force".to_owned();
    if !lost.is_empty() {
        let why = lost.join("; ");
        let precedence = precedence(route.id.kind);
        message += &format!(", but not where {precedence}: {why}");
    }
    if !full.is_empty() {
        message += &format!(", but not everywhere: {}", full.join("; "));
    }
    message += &ignored(route);
    condition("Accepted", true, "Accepted", message)
}

/// The ports where the route gives way, with the route that it gives way to.
fn lost_ports(
    place: usize,
    attachment: &Attachment,
    ports: &[ServicePort],
    routes: &Routes,
    attached: &Attachments,
) -> Vec<String> {
    let lost = ports.iter().filter_map(|port| {
        let winner = attached.prevailing(port, &attachment.group, place, routes)?;
        Some(format!("port {} has {}", port.port, winner.id))
    });
    lost.collect()
}

/// Why a route of the kind gives way.
fn precedence(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Grpc | RouteKind::Http => "a GRPCRoute goes before an HTTPRoute",
        RouteKind::Tls => "a GRPCRoute or HTTPRoute goes before a TLSRoute",
        RouteKind::Tcp => "a route of another kind, or an older TCPRoute, goes before a TCPRoute",
        RouteKind::Udp => "an older UDPRoute goes before a UDPRoute",
    }
}
