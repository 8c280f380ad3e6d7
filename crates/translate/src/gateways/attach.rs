//! Routes on listeners: the listeners that a parentRef selects, with the host names of the route
//! there, or why it selects none.
//!
//! Source: `CommonRouteSpec.parentRefs`, the comments of `RouteConditionReason`;
//! `GRPCRouteSpec.hostnames` on HTTPRoutes and GRPCRoutes that share host names. A Gateway as a
//! parent stands for its own listeners, not for those of its ListenerSets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::{GatewayId, RouteId, RouteKind};

use super::listeners::BoundListener;
use super::plans::GatewayPlan;
use super::scopes::Namespaces;
use crate::conditions::Fault;
use crate::names::GROUP;
use crate::names::gateway_named;
use crate::objects::{Lenient, Meta, ParentRef};
use crate::routes::Route;
use crate::routes::hosts::{Host, intersection, on_listener};
use crate::routes::status;

/// Identifies a listener among those of all Gateways.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ListenerId {
    pub(crate) gateway: GatewayId,
    /// Position of the ListenerSet; `None` for the Gateway's own listeners.
    pub(crate) set: Option<usize>,
    pub(crate) position: usize,
}

/// One parentRef of a route that is a managed Gateway or a ListenerSet of one.
#[derive(Debug)]
pub(crate) struct ListenerAttachment {
    /// Position in the route's parentRefs.
    pub(crate) position: usize,
    pub(crate) parent_ref: ParentRef,
    pub(crate) gateway: GatewayId,
    /// The listeners with the route's host names there, or why there are none.
    pub(crate) listeners: Result<Vec<(ListenerId, Vec<Host>)>, Fault>,
    /// For the message: older routes that receive all connections of a listener.
    pub(crate) shadowed: Vec<String>,
    /// For the message: why the route is not in effect on the ports of some listeners.
    pub(crate) full: Vec<String>,
}

/// The plans of all managed Gateways.
pub(crate) type Plans<'a> = BTreeMap<GatewayId, GatewayPlan<'a>>;

/// ListenerSets by namespace and name, with their Gateway and their position there.
pub(crate) type SetIndex<'a> = HashMap<(&'a str, &'a str), (&'a GatewayId, usize)>;

pub(crate) fn set_index<'a>(plans: &'a Plans<'_>) -> SetIndex<'a> {
    let all = plans.iter().flat_map(|(id, plan)| {
        plan.sets.iter().enumerate().map(move |(position, set)| {
            let Meta {
                namespace, name, ..
            } = set.meta;
            ((&**namespace, &**name), (id, position))
        })
    });
    all.collect()
}

/// The object whose listeners a parentRef selects.
pub(crate) enum Parent {
    Gateway(GatewayId),
    ListenerSetPlan(GatewayId, usize),
}

/// Returns `None` if the parent is not managed by this controller.
pub(crate) fn parent(
    parent_ref: &ParentRef,
    own: &str,
    plans: &Plans<'_>,
    sets: &SetIndex<'_>,
) -> Option<Parent> {
    if let Some(id) = gateway_named(parent_ref, own) {
        return plans.contains_key(&id).then_some(Parent::Gateway(id));
    }
    let group = parent_ref.group.as_deref().unwrap_or(GROUP);
    if group != GROUP || parent_ref.kind.as_deref() != Some("ListenerSet") {
        return None;
    }
    let namespace = parent_ref.namespace.as_deref().filter(|ns| !ns.is_empty());
    let (id, position) = sets.get(&(namespace.unwrap_or(own), &*parent_ref.name))?;
    Some(Parent::ListenerSetPlan((*id).clone(), *position))
}

/// Returns the attachments of a route, in the order of its parentRefs.
pub(crate) fn attachments(
    route: &Route,
    plans: &Plans<'_>,
    sets: &SetIndex<'_>,
    namespaces: &Namespaces<'_>,
) -> Vec<ListenerAttachment> {
    let parents = route.object.parent_refs().iter().enumerate();
    let parents = parents.filter_map(|(position, entry)| {
        let Lenient::Valid(parent_ref) = entry else {
            return None;
        };
        let parent = parent(parent_ref, &route.id.namespace, plans, sets)?;
        let (gateway, set) = match parent {
            Parent::Gateway(id) => (id, None),
            Parent::ListenerSetPlan(id, set) => (id, Some(set)),
        };
        let plan = plans.get(&gateway)?;
        Some(ListenerAttachment {
            position,
            listeners: listeners(route, parent_ref, (plan, set), namespaces),
            parent_ref: parent_ref.clone(),
            gateway,
            shadowed: Vec::new(),
            full: Vec::new(),
        })
    });
    parents.collect()
}

/// Faults are checked in the order of the specification's reasons: no matching listener, not
/// allowed, no common host name.
fn listeners(
    route: &Route,
    parent_ref: &ParentRef,
    (plan, set): (&GatewayPlan<'_>, Option<usize>),
    namespaces: &Namespaces<'_>,
) -> Result<Vec<(ListenerId, Vec<Host>)>, Fault> {
    let refuse = |reason, text| Err(Fault { reason, text });
    let (bound, whose) = match set.map(|set| &plan.sets[set]) {
        None => (&plan.own.all, format!("Gateway {}", plan.owned.id)),
        Some(set) => {
            let whose = format!("ListenerSet {}/{}", set.meta.namespace, set.meta.name);
            if let Some(fault) = &set.refused {
                let why = format!("{whose} is not allowed by its Gateway: {}", fault.text);
                return refuse("NoMatchingParent", why);
            }
            (&set.listeners.all, whose)
        }
    };
    let section = parent_ref
        .section_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let meant: Vec<(usize, &BoundListener<'_>)> = bound
        .iter()
        .enumerate()
        .filter(|(_, of)| section.is_none_or(|name| of.spec.name == name))
        .filter(|(_, of)| parent_ref.port.is_none_or(|port| of.spec.port == port))
        .collect();
    if meant.is_empty() {
        let name = section
            .map(|name| format!(" named {name:?}"))
            .unwrap_or_default();
        let port = parent_ref
            .port
            .map(|port| format!(" on port {port}"))
            .unwrap_or_default();
        let has = describe(bound.iter());
        return refuse(
            "NoMatchingParent",
            format!("{whose} has no listener{name}{port}; it has {has}"),
        );
    }
    let kind = route.id.kind;
    let admits = |of: &BoundListener<'_>| {
        let namespace = &*route.id.namespace;
        of.kinds.contains(&kind) && of.scope.admits(&of.namespace, namespace, namespaces)
    };
    let allowed: Vec<_> = meant.iter().filter(|(_, of)| admits(of)).collect();
    if allowed.is_empty() {
        let why: Vec<String> = meant
            .iter()
            .map(|(_, of)| not_admitted_reason(of, &route.id))
            .collect();
        return refuse(
            "NotAllowedByListeners",
            format!("{whose}: {}", why.join("; ")),
        );
    }
    let fitting: Vec<(ListenerId, Vec<Host>)> = allowed
        .iter()
        .filter_map(|(position, of)| {
            let hostname = match (&of.socket, kind) {
                (Ok(socket), RouteKind::Http | RouteKind::Grpc | RouteKind::Tls) => {
                    socket.hostname.as_ref()
                }
                _ => None,
            };
            let hosts = on_listener(hostname, &route.hosts);
            let id = ListenerId {
                gateway: plan.owned.id.clone(),
                set,
                position: *position,
            };
            (!hosts.is_empty()).then_some((id, hosts))
        })
        .collect();
    if fitting.is_empty() {
        let have: Vec<String> = allowed
            .iter()
            .map(|(_, of)| format!("{} has {}", of.spec.name, of.spec.hostname))
            .collect();
        let names = route
            .object
            .hostnames()
            .iter()
            .filter_map(|name| name.as_ref().ok());
        let names: Vec<&str> = names.map(String::as_str).collect();
        let why = format!(
            "no hostname of the route ({}) matches a listener of {whose}: {}",
            names.join(", "),
            have.join(", ")
        );
        return refuse("NoMatchingListenerHostname", why);
    }
    Ok(fitting)
}

/// Describes listeners for a message: `http (HTTP, port 80)`.
fn describe<'b>(bound: impl Iterator<Item = &'b BoundListener<'b>>) -> String {
    let all = bound.map(|of| {
        format!(
            "{} ({}, port {})",
            of.spec.name, of.spec.protocol, of.spec.port
        )
    });
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

fn not_admitted_reason(of: &BoundListener<'_>, route: &RouteId) -> String {
    let name = &of.spec.name;
    if of.kinds.contains(&route.kind) {
        let takes = of.scope.describe(&of.namespace);
        return format!(
            "listener {name} allows routes {takes}, not from namespace {}; change its \
             allowedRoutes.namespaces",
            route.namespace
        );
    }
    let kinds: Vec<String> = of.kinds.iter().map(RouteKind::to_string).collect();
    let kinds = if kinds.is_empty() {
        "no routes".to_owned()
    } else {
        kinds.join(" and ")
    };
    format!(
        "listener {name} (protocol {}) allows {kinds}, not {}",
        of.spec.protocol, route.kind
    )
}

/// A route with its attachments.
pub(crate) type GatewayRoute = (Arc<Route>, Vec<ListenerAttachment>);

/// Resolves conflicts between routes on one listener. Routes are in tie-breaking order: the first
/// takes precedence.
pub(crate) fn resolve_conflicts(routes: &mut [GatewayRoute]) {
    let mut requests: HashMap<ListenerId, Vec<(RouteId, Vec<Host>)>> = HashMap::new();
    let mut bytes: HashMap<ListenerId, RouteId> = HashMap::new();
    for (route, attachments) in routes {
        let works = status::check_usable(route).is_ok();
        for attachment in attachments {
            let Ok(listeners) = &attachment.listeners else {
                continue;
            };
            match route.id.kind {
                RouteKind::Http | RouteKind::Grpc => {
                    if let Some(fault) = conflicting_route(&route.id, listeners, &requests) {
                        attachment.listeners = Err(fault);
                    } else if works {
                        for (id, hosts) in listeners {
                            let held = requests.entry(id.clone()).or_default();
                            held.push((route.id.clone(), hosts.clone()));
                        }
                    }
                }
                RouteKind::Tcp | RouteKind::Udp => {
                    for (id, _) in listeners {
                        let first = bytes.entry(id.clone()).or_insert_with(|| route.id.clone());
                        if *first != route.id {
                            attachment.shadowed.push(first.to_string());
                        }
                    }
                }
                RouteKind::Tls => {}
            }
        }
    }
}

/// HTTPRoutes and GRPCRoutes cannot share a host name of a listener.
fn conflicting_route(
    route: &RouteId,
    listeners: &[(ListenerId, Vec<Host>)],
    requests: &HashMap<ListenerId, Vec<(RouteId, Vec<Host>)>>,
) -> Option<Fault> {
    let shared = |mine: &[Host], theirs: &[Host]| {
        let mut pairs = mine
            .iter()
            .flat_map(|one| theirs.iter().map(move |other| (one, other)));
        pairs.find_map(|(one, other)| intersection(one.as_ref(), other.as_ref()))
    };
    let (other, host) = listeners.iter().find_map(|(id, hosts)| {
        let held = requests.get(id)?.iter();
        let mut others = held.filter(|(other, _)| other.kind != route.kind);
        others.find_map(|(other, theirs)| Some((other, shared(hosts, theirs)?)))
    })?;
    let host = host.map_or_else(
        || "no hostname".to_owned(),
        |host| format!("the hostname {host}"),
    );
    Some(Fault {
        reason: "Conflicted",
        text: format!(
            "the older {other} is attached with {host} as well, and cannot share it with this {}; \
             give the two routes different hostnames",
            route.kind
        ),
    })
}
