//! The routes of Gateways, translated and attached, and their statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{GatewayId, RouteKind, ServicePort};

use super::attach::{
    GatewayRoute, ListenerAttachment, Plans, SetIndex, attachments, parent, resolve_conflicts,
    set_index,
};
use super::scopes::Namespaces;
use super::service_rules::AppliedServiceRules;
use crate::conditions::condition;
use crate::input::Objects;
use crate::objects::{Lenient, ParentRef};
use crate::output::{Condition, Controller};
use crate::routes::status::{
    BackendState, PositionedStatus, check_usable, positioned_status, unsupported_note,
};
use crate::routes::{self, Resolver, Route, Rules};

/// The last translation of the routes of Gateways.
pub(crate) type GatewayRouteCache = routes::RouteCache<Arc<Route>>;

/// Returns the routes that have a managed parent, in tie-breaking order.
pub(crate) fn attached(
    cache: &mut GatewayRouteCache,
    objects: &Objects,
    plans: &Plans<'_>,
    namespaces: &Namespaces<'_>,
    resolver: &Resolver,
) -> Vec<GatewayRoute> {
    let sets = set_index(plans);
    let ours =
        |_: RouteKind, parents: &[_], namespace: &str| is_ours(parents, namespace, plans, &sets);
    let mut routes: Vec<GatewayRoute> = cache
        .translated(objects, resolver, &ours, |route, _| Arc::new(route))
        .into_iter()
        .map(|route| {
            let attachments = attachments(&route, plans, &sets, namespaces);
            (route, attachments)
        })
        .collect();
    routes.sort_by_cached_key(|(route, _)| route.tie_order());
    resolve_conflicts(&mut routes);
    routes
}

fn is_ours(
    parents: &[Lenient<ParentRef>],
    namespace: &str,
    plans: &Plans<'_>,
    sets: &SetIndex<'_>,
) -> bool {
    let mut parents = parents.iter().filter_map(|entry| entry.as_ref().ok());
    parents.any(|of| parent(of, namespace, plans, sets).is_some())
}

/// Returns the Service ports that the routes and listeners of each Gateway send to, directly or by
/// the own routes of Services.
pub(crate) fn targets(
    plans: &Plans<'_>,
    routes: &[GatewayRoute],
    service_rules: &AppliedServiceRules,
) -> BTreeMap<GatewayId, BTreeSet<ServicePort>> {
    let mut all: BTreeMap<GatewayId, BTreeSet<ServicePort>> = BTreeMap::new();
    for (id, plan) in plans {
        let servers = plan.listeners().flat_map(|of| &of.filters.targets);
        let servers: BTreeSet<ServicePort> = servers.cloned().collect();
        if !servers.is_empty() {
            all.insert(id.clone(), servers);
        }
    }
    for (route, attachments) in routes {
        for attachment in attachments.iter().filter(|of| of.listeners.is_ok()) {
            let ports = all.entry(attachment.gateway.clone()).or_default();
            let named = &route.report.targets;
            ports.extend(named.iter().cloned());
            if matches!(route.rules, Rules::Requests(_)) {
                let further = named.iter().flat_map(|port| service_rules.targets(port));
                ports.extend(further.cloned());
            }
        }
    }
    all
}

/// `is_idle` returns true for a port without a ready endpoint. `left_out` describes the endpoints
/// of its Service that gateways do not send to.
pub(crate) fn statuses<'k>(
    routes: &[GatewayRoute],
    is_idle: impl Fn(&ServicePort) -> bool,
    left_out: impl Fn(&ServicePort) -> Option<&'k str>,
) -> Vec<PositionedStatus> {
    let statuses = routes.iter().map(|(route, attachments)| {
        let parents = attachments.iter().map(|attachment| {
            let accepted = accepted(route, attachment);
            (attachment.position, &attachment.parent_ref, accepted)
        });
        let usable = route.report.usable.iter();
        let backends: Vec<BackendState<'_>> = usable
            .map(|port| BackendState {
                port,
                idle: is_idle(port),
                left_out: left_out(port),
            })
            .collect();
        positioned_status(route, Controller::Gateway, &backends, parents)
    });
    statuses.collect()
}

fn accepted(route: &Route, attachment: &ListenerAttachment) -> Condition {
    if let Err(fault) = &attachment.listeners {
        return condition("Accepted", false, fault.reason, fault.text.clone());
    }
    if let Err(condition) = check_usable(route) {
        return condition;
    }
    let mut message = "the route is in effect".to_owned();
    if let Some(older) = attachment.shadowed.first() {
        message += &format!(
            ", except on listeners that the older {older} is attached to, which receives all \
             their connections"
        );
    }
    if !attachment.full.is_empty() {
        message += &format!(
            ", except where there is no room: {}",
            attachment.full.join("; ")
        );
    }
    message += &unsupported_note(route);
    condition("Accepted", true, "Accepted", message)
}
