//! What a route's status says, whatever kind of parent it has.
//!
//! Source: the comments of `RouteConditionType` in Gateway API's `shared_types.go`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{RouteKind, ServicePort};

use super::{Report, Route};
use crate::conditions::{condition, join};
use crate::memo;
use crate::objects::ParentRef;
use crate::output::{Condition, Controller, ParentStatus, RouteStatus};

/// The statuses of both, one for each route, by kind, namespace and name. One that says what it said `before` is the same.
pub(crate) fn merge(
    mesh: Vec<Placed>,
    gateways: Vec<Placed>,
    before: &[Arc<RouteStatus>],
) -> Vec<Arc<RouteStatus>> {
    let mut all: BTreeMap<_, Placed> = BTreeMap::new();
    for (status, places) in mesh.into_iter().chain(gateways) {
        match all.entry(status.order()) {
            Entry::Vacant(free) => drop(free.insert((status, places))),
            Entry::Occupied(mut taken) => {
                let (first, taken) = taken.get_mut();
                let own = taken.drain(..).zip(first.parents.drain(..));
                let mut parents: Vec<_> =
                    own.chain(places.into_iter().zip(status.parents)).collect();
                parents.sort_by_key(|(place, _)| *place);
                (*taken, first.parents) = parents.into_iter().unzip();
            }
        }
    }
    let mut before = before.iter().peekable();
    let alike = |(order, (status, _)): (Order, Placed)| {
        while before.next_if(|known| known.order() < order).is_some() {}
        memo::alike(status, before.peek().copied())
    };
    all.into_iter().map(alike).collect()
}

/// Where statuses stand in their list.
type Order = (u8, String, String);

impl RouteStatus {
    fn order(&self) -> Order {
        let kind = status_order(self.kind);
        (kind, self.namespace.clone(), self.name.clone())
    }
}

/// With the places of the parents' references in the route.
pub(crate) type Placed = (RouteStatus, Vec<usize>);

fn status_order(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Http => 0,
        RouteKind::Grpc => 1,
        RouteKind::Tls => 2,
        RouteKind::Tcp => 3,
        RouteKind::Udp => 4,
    }
}

/// What is said of a route to each of its parents, of which `parents` are the places, the references and the condition
/// Accepted. `backends`: those that can be used.
pub(crate) fn placed<'p>(
    route: &Route,
    controller: Controller,
    backends: &[BackendState<'_>],
    parents: impl Iterator<Item = (usize, &'p ParentRef, Condition)>,
) -> Placed {
    let parents = parents.map(|(place, parent_ref, accepted)| {
        let partial = accepted.status.then(|| partially_invalid(route)).flatten();
        let resolved = resolved_refs(&route.report, backends);
        let conditions = [accepted, resolved].into_iter().chain(partial);
        let status = ParentStatus {
            parent_ref: parent_ref.clone(),
            controller,
            conditions: conditions.collect(),
        };
        (place, status)
    });
    let (places, parents) = parents.unzip();
    let status = RouteStatus {
        kind: route.id.kind,
        namespace: route.id.namespace.to_string(),
        name: route.id.name.to_string(),
        generation: route.source.meta().generation,
        parents,
    };
    (status, places)
}

/// What does not work of a route that works otherwise.
fn partially_invalid(route: &Route) -> Option<Condition> {
    let faults = &route.report.faults;
    if faults.is_empty() {
        return None;
    }
    let rules = route.report.faulty_rules();
    let why = join(faults.iter().map(|(_, fault)| fault));
    let wrong = match route.id.kind {
        RouteKind::Grpc | RouteKind::Http => "answered with 500",
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => {
            "without effect, or its connections are closed"
        }
    };
    let message = format!(
        "Dropped Rule {rules}: what is wrong there is {wrong}, all else is in force. {why}"
    );
    Some(condition(
        "PartiallyInvalid",
        true,
        "UnsupportedValue",
        message,
    ))
}

/// Errors where nothing in the route works as it was meant.
pub(crate) fn works(route: &Route) -> Result<(), Condition> {
    let faults = &route.report.faults;
    let (Some((_, first)), false) = (faults.first(), route.rules.work()) else {
        return Ok(());
    };
    let why = join(faults.iter().map(|(_, fault)| fault));
    let message = format!(
        "no rule is valid, so that {}. {why}",
        without_rule(route.id.kind)
    );
    Err(condition("Accepted", false, first.reason, message))
}

/// For messages: what has no effect, or another than was written, though nothing is wrong.
pub(crate) fn ignored(route: &Route) -> String {
    let Report {
        ignored, adjusted, ..
    } = &route.report;
    let mut words = String::new();
    if !ignored.is_empty() {
        words += &format!("; not supported and without effect: {}", ignored.join(", "));
    }
    if !adjusted.is_empty() {
        words += &format!("; in force with other values: {}", adjusted.join(", "));
    }
    words
}

/// What becomes of what a route takes where nothing in it is valid.
fn without_rule(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Grpc | RouteKind::Http => "requests are answered with 500",
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => "connections are closed",
    }
}

/// A backend that can be used, if it has endpoints.
pub(crate) struct BackendState<'a> {
    pub(crate) port: &'a ServicePort,
    /// No endpoint is ready.
    pub(crate) idle: bool,
    /// Endpoints of its Service that are not sent to, in words.
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
            let mut message = "every backend was found".to_owned();
            if !left_out.is_empty() {
                message += &format!("; {left_out}");
            }
            let idle = backends.iter().filter(|of| of.idle);
            let idle: Vec<String> = idle.map(|of| of.port.to_string()).collect();
            if !idle.is_empty() {
                message += &format!(
                    "; without a ready endpoint: {}; check that the selector finds pods and that they are ready",
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
