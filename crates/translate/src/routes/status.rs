//! The status of a route, whatever kind of parent it has.
//!
//! Source: the comments of `RouteConditionType` in Gateway API's `shared_types.go`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{RouteKind, ServicePort};

use super::report::Report;
use super::route::Route;
use crate::conditions::{condition, join};
use crate::memo;
use crate::objects::ParentRef;
use crate::output::{Condition, Controller, ParentStatus, RouteStatus};

/// Merges the statuses for Services and Gateways to one for each route, by kind, namespace and
/// name. Statuses that equal the ones in `before` keep their identity.
pub(crate) fn merge_statuses(
    mesh: Vec<PositionedStatus>,
    gateways: Vec<PositionedStatus>,
    before: &[Arc<RouteStatus>],
) -> Vec<Arc<RouteStatus>> {
    let mut all: BTreeMap<_, PositionedStatus> = BTreeMap::new();
    for (status, places) in mesh.into_iter().chain(gateways) {
        match all.entry(status.order()) {
            Entry::Vacant(free) => drop(free.insert((status, places))),
            Entry::Occupied(mut taken) => {
                let (first, taken) = taken.get_mut();
                let own = taken.drain(..).zip(first.parents.drain(..));
                let mut parents: Vec<_> =
                    own.chain(places.into_iter().zip(status.parents)).collect();
                parents.sort_by_key(|(position, _)| *position);
                (*taken, first.parents) = parents.into_iter().unzip();
            }
        }
    }
    let mut before = before.iter().peekable();
    let intern = |(order, (status, _)): (Order, PositionedStatus)| {
        while before.next_if(|known| known.order() < order).is_some() {}
        memo::intern(status, before.peek().copied())
    };
    all.into_iter().map(intern).collect()
}

/// Sort key of statuses.
type Order = (u8, String, String);

impl RouteStatus {
    fn order(&self) -> Order {
        let kind = status_order(self.kind);
        (kind, self.namespace.clone(), self.name.clone())
    }
}

/// A status, with the position of each parentRef in the route.
pub(crate) type PositionedStatus = (RouteStatus, Vec<usize>);

fn status_order(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Http => 0,
        RouteKind::Grpc => 1,
        RouteKind::Tls => 2,
        RouteKind::Tcp => 3,
        RouteKind::Udp => 4,
    }
}

/// Builds the status of a route from its parents: position, reference, and condition Accepted of
/// each. `backends` are the usable ones.
pub(crate) fn positioned_status<'p>(
    route: &Route,
    controller: Controller,
    backends: &[BackendState<'_>],
    parents: impl Iterator<Item = (usize, &'p ParentRef, Condition)>,
) -> PositionedStatus {
    let parents = parents.map(|(position, parent_ref, accepted)| {
        let partial = accepted.status.then(|| partially_invalid(route)).flatten();
        let resolved = resolved_refs(&route.report, backends);
        let conditions = [accepted, resolved].into_iter().chain(partial);
        let status = ParentStatus {
            parent_ref: parent_ref.clone(),
            controller,
            conditions: conditions.collect(),
        };
        (position, status)
    });
    let (places, parents) = parents.unzip();
    let status = RouteStatus {
        kind: route.id.kind,
        namespace: route.id.namespace.to_string(),
        name: route.id.name.to_string(),
        generation: route.object.meta().generation,
        parents,
    };
    (status, places)
}

/// Returns the condition for faults in a route that works otherwise.
fn partially_invalid(route: &Route) -> Option<Condition> {
    let faults = &route.report.faults;
    if faults.is_empty() {
        return None;
    }
    let rules = route.report.faulty_rules();
    let why = join(faults.iter().map(|(_, fault)| fault));
    let wrong = match route.id.kind {
        RouteKind::Grpc | RouteKind::Http => "requests that match it get 500",
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => {
            "the invalid part has no effect, or its connections are closed"
        }
    };
    let message =
        format!("Dropped Rule {rules}: {wrong}; the rest of the route is in effect. {why}");
    Some(condition(
        "PartiallyInvalid",
        true,
        "UnsupportedValue",
        message,
    ))
}

/// Returns the condition Accepted=False if no part of the route works as intended.
pub(crate) fn check_usable(route: &Route) -> Result<(), Condition> {
    let faults = &route.report.faults;
    let (Some((_, first)), false) = (faults.first(), route.rules.any_usable()) else {
        return Ok(());
    };
    let why = join(faults.iter().map(|(_, fault)| fault));
    let message = format!(
        "no rule is valid, so {}. {why}",
        without_rule(route.id.kind)
    );
    Err(condition("Accepted", false, first.reason, message))
}

/// Describes unsupported and adjusted fields for the message of an accepted route.
pub(crate) fn unsupported_note(route: &Route) -> String {
    let Report {
        ignored, adjusted, ..
    } = &route.report;
    let mut words = String::new();
    if !ignored.is_empty() {
        words += &format!("; unsupported and ignored: {}", ignored.join(", "));
    }
    if !adjusted.is_empty() {
        words += &format!("; adjusted: {}", adjusted.join(", "));
    }
    words
}

/// Returns what happens to the traffic of a route without a valid rule.
fn without_rule(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Grpc | RouteKind::Http => "requests get 500",
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => "connections are closed",
    }
}

/// A usable backend.
pub(crate) struct BackendState<'a> {
    pub(crate) port: &'a ServicePort,
    /// Whether no endpoint is ready.
    pub(crate) idle: bool,
    /// Description of the endpoints of its Service that nothing is sent to.
    pub(crate) left_out: Option<&'a str>,
}

fn resolved_refs(report: &Report, backends: &[BackendState<'_>]) -> Condition {
    let left_out = backends.iter().filter_map(|of| {
        let words = of.left_out?;
        Some(format!("endpoints of {}: {words}", of.port.service))
    });
    let left_out: BTreeSet<String> = left_out.collect();
    let left_out = left_out.into_iter().collect::<Vec<_>>().join("; ");
    match report.unresolved.first() {
        // Nothing is left to send to.
        None if backends.iter().any(|of| of.idle && of.left_out.is_some()) => {
            condition("ResolvedRefs", false, "RefNotPermitted", left_out)
        }
        None => {
            let mut message = "all backends exist".to_owned();
            if !left_out.is_empty() {
                message += &format!("; {left_out}");
            }
            let idle = backends.iter().filter(|of| of.idle);
            let idle: Vec<String> = idle.map(|of| of.port.to_string()).collect();
            if !idle.is_empty() {
                message += &format!(
                    "; no ready endpoint: {}; check that the selector matches pods and that they \
                     are ready",
                    idle.join(", ")
                );
            }
            condition("ResolvedRefs", true, "ResolvedRefs", message)
        }
        Some(first) => {
            let why = join(report.unresolved.iter());
            condition("ResolvedRefs", false, first.reason, why)
        }
    }
}
