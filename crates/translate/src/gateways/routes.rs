//! The routes of Gateways, translated and attached, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{GatewayId, RouteKind, ServicePort};

use super::attach::{
    Attached, Attachment, Plans, SetIndex, attachments, parent, set_index, settle,
};
use super::composed::Composed;
use super::scopes::Namespaces;
use crate::conditions::condition;
use crate::input::Objects;
use crate::objects::{Lenient, ParentRef};
use crate::output::{Condition, Controller};
use crate::routes::status::{BackendState, Placed, ignored, placed, works};
use crate::routes::{self, Resolver, Route, Rules};

/// Routes of Gateways as they were translated last.
pub(crate) type Memo = routes::Memo<Arc<Route>>;

/// Those with a parent of ours, in the order that decides ties.
pub(crate) fn attached(
    memo: &mut Memo,
    objects: &Objects,
    plans: &Plans<'_>,
    namespaces: &Namespaces<'_>,
    resolver: &Resolver,
) -> Vec<Attached> {
    let sets = set_index(plans);
    let ours =
        |_: RouteKind, parents: &[_], namespace: &str| is_ours(parents, namespace, plans, &sets);
    let mut routes: Vec<Attached> = memo
        .translated(objects, resolver, &ours, Arc::new)
        .into_iter()
        .map(|route| {
            let attachments = attachments(&route, plans, &sets, namespaces);
            (route, attachments)
        })
        .collect();
    routes.sort_by_cached_key(|(route, _)| route.tie_order());
    settle(&mut routes);
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

/// The Service ports that the routes of each Gateway name, and those that these lead on to.
pub(crate) fn targets(
    routes: &[Attached],
    composed: &Composed,
) -> BTreeMap<GatewayId, BTreeSet<ServicePort>> {
    let mut all: BTreeMap<GatewayId, BTreeSet<ServicePort>> = BTreeMap::new();
    for (route, attachments) in routes {
        for attachment in attachments.iter().filter(|of| of.listeners.is_ok()) {
            let ports = all.entry(attachment.gateway.clone()).or_default();
            let named = &route.report.targets;
            ports.extend(named.iter().cloned());
            if matches!(route.rules, Rules::Requests(_)) {
                let further = named.iter().flat_map(|port| composed.targets(port));
                ports.extend(further.cloned());
            }
        }
    }
    all
}

/// `is_idle`: whether a port has endpoints, and none is ready.
/// `left_out`: the endpoints of its Service that gateways do not send to, in words.
pub(crate) fn statuses<'k>(
    routes: &[Attached],
    is_idle: impl Fn(&ServicePort) -> bool,
    left_out: impl Fn(&ServicePort) -> Option<&'k str>,
) -> Vec<Placed> {
    let statuses = routes.iter().map(|(route, attachments)| {
        let parents = attachments.iter().map(|attachment| {
            let accepted = accepted(route, attachment);
            (attachment.place, &attachment.parent_ref, accepted)
        });
        let usable = route.report.usable.iter();
        let backends: Vec<BackendState<'_>> = usable
            .map(|port| BackendState {
                port,
                idle: is_idle(port),
                left_out: left_out(port),
            })
            .collect();
        placed(route, Controller::Gateway, &backends, parents)
    });
    statuses.collect()
}

fn accepted(route: &Route, attachment: &Attachment) -> Condition {
    if let Err(fault) = &attachment.listeners {
        return condition("Accepted", false, fault.reason, fault.text.clone());
    }
    if let Err(condition) = works(route) {
        return condition;
    }
    let mut message = "the route is in force".to_owned();
    if let Some(older) = attachment.shadowed.first() {
        message += &format!(
            ", but not on listeners that the older {older} has: nothing tells their connections apart, and it takes all"
        );
    }
    if !attachment.full.is_empty() {
        message += &format!(", but not everywhere: {}", attachment.full.join("; "));
    }
    message += &ignored(route);
    condition("Accepted", true, "Accepted", message)
}
