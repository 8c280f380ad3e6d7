//! The state of routes at the proxies that hold destinations with their rules.

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_ir::{RouteId, Routing, ServiceKind, ServicePort, Target};
use weft_translate::ParentStatus;

use super::{Proxies, ProxyState, worse};
use crate::encoder::{Encoder, Source};
use crate::subscribe::registry::Destination;

pub(super) type Tally = HashMap<RouteId, HashMap<ServicePort, Proxies>>;

pub(super) fn tally(encoder: &Encoder, held: Vec<Destination>) -> Tally {
    type Expected = Option<(u64, ServicePort, Vec<RouteId>)>;
    let mut known: HashMap<(SocketAddr, String), Expected> = HashMap::new();
    let mut tally = Tally::new();
    for Destination { pod, address, held } in held {
        let expected = known
            .entry((address, pod.namespace.clone()))
            .or_insert_with(|| expected(encoder, address, &pod.namespace));
        let Some((version, port, routes)) = expected else {
            continue;
        };
        let state = ProxyState::of(held.as_ref(), *version);
        for route in routes {
            let of_route = tally.entry(route.clone()).or_default();
            let proxies = of_route.entry(port.clone()).or_default();
            worse(proxies, &pod, &state);
        }
    }
    tally
}

/// Returns the current version of the destination at an address, with the routes of its rules;
/// `None` if it has none.
fn expected(
    encoder: &Encoder,
    address: SocketAddr,
    namespace: &str,
) -> Option<(u64, ServicePort, Vec<RouteId>)> {
    let Target::Service(service) = encoder.mesh().destination(address, namespace).target else {
        return None;
    };
    let mut routes: Vec<RouteId> = match &service.routing {
        Routing::Direct(_) => return None,
        Routing::Http(rules) | Routing::Grpc(rules) => {
            rules.iter().map(|rule| rule.route.clone()).collect()
        }
        Routing::Tls(rules) => rules.iter().map(|rule| rule.rule.route.clone()).collect(),
        Routing::Tcp(rule) => vec![rule.route.clone()],
    };
    // Rules of one route may be apart: counting a route twice does no harm.
    routes.dedup();
    let version = encoder.destination(address, namespace).resource.version;
    Some((version, service.id.clone(), routes))
}

/// Returns the proxies affected by a route on the ports of one of its parents.
pub(super) fn proxies(tally: &Tally, route: &RouteId, parent: &ParentStatus) -> Proxies {
    let reference = &parent.parent_ref;
    let namespace = reference.namespace.as_deref().unwrap_or(&route.namespace);
    let is_parent = |port: &ServicePort| {
        port.service.kind == ServiceKind::Service
            && port.service.namespace == namespace
            && port.service.name == reference.name
            && reference
                .port
                .is_none_or(|wanted| wanted == i64::from(port.port))
    };
    let mut all = Proxies::new();
    for (port, proxies) in tally.get(route).into_iter().flatten() {
        if is_parent(port) {
            for (pod, state) in proxies {
                worse(&mut all, pod, state);
            }
        }
    }
    all
}
