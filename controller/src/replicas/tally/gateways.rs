//! The state of routes at the proxies of Gateways, by the ports that have their rules.

use std::collections::HashMap;
use std::sync::Arc;

use weft_api::encode::RouteDigests;
use weft_ir::{GatewayId, ResourceKey, RouteId};
use weft_translate::ParentStatus;

use super::{Proxies, ProxyState, worse};
use crate::encoder::{Encoder, Source};
use crate::subscribe::Registry;

/// A listener on a port of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    gateway: GatewayId,
    port: u16,
    /// Its name, or `namespace/listenerset/name`.
    listener: Arc<str>,
}

pub(super) type Tally = HashMap<RouteId, HashMap<Place, Proxies>>;

pub(super) fn tally(encoder: &Encoder, registry: &Registry) -> Tally {
    let mesh = encoder.mesh();
    let mut tally = Tally::new();
    let is_gateway =
        |pod: &crate::watch::ObjectKey| mesh.gateway_of(&pod.namespace, &pod.name).is_some();
    for proxy in registry.gateways(is_gateway) {
        let pod = proxy.pod;
        let (Some(gateway), Some(encoded)) = (
            mesh.gateway_of(&pod.namespace, &pod.name),
            encoder.gateway(&pod.namespace, &pod.name),
        ) else {
            continue;
        };
        for (key, resource) in &encoded.resources {
            let (ResourceKey::Port(_, port), Some(routes)) = (key, encoded.routes.get(key)) else {
                continue;
            };
            let held = proxy.ports.get(key);
            let state = ProxyState::of(held.map(|port| &port.held), resource.version);
            for ((listener, route), digest) in &**routes {
                // A change of other rules of the port does not make the route pending.
                let same = |before: &Arc<RouteDigests>| {
                    before.get(&(Arc::clone(listener), route.clone())) == Some(digest)
                };
                let before = held.and_then(|port| port.routes.as_ref());
                let state = match &state {
                    ProxyState::Behind if before.is_some_and(same) => &ProxyState::InForce,
                    state => state,
                };
                let place = Place {
                    gateway: gateway.clone(),
                    port: *port,
                    listener: Arc::clone(listener),
                };
                let of_route = tally.entry(route.clone()).or_default();
                worse(of_route.entry(place).or_default(), &pod, state);
            }
        }
    }
    tally
}

/// Returns the proxies affected by a route on the listeners of one of its parents.
pub(super) fn proxies(tally: &Tally, route: &RouteId, parent: &ParentStatus) -> Proxies {
    let mut all = Proxies::new();
    for (place, proxies) in tally.get(route).into_iter().flatten() {
        if is_at(place, route, parent) {
            for (pod, state) in proxies {
                worse(&mut all, pod, state);
            }
        }
    }
    all
}

fn is_at(place: &Place, route: &RouteId, parent: &ParentStatus) -> bool {
    let reference = &parent.parent_ref;
    let namespace = reference.namespace.as_deref().unwrap_or(&route.namespace);
    let section = match place.listener.rsplit_once('/') {
        Some((set, section)) => {
            let is_set = reference.kind.as_deref() == Some("ListenerSet");
            (is_set && set.split_once('/') == Some((namespace, &*reference.name)))
                .then_some(section)
        }
        None => {
            let is_gateway = reference
                .kind
                .as_deref()
                .is_none_or(|kind| kind == "Gateway");
            let id = &place.gateway;
            let same = (&*id.namespace, &*id.name) == (namespace, &*reference.name);
            (is_gateway && same).then_some(&*place.listener)
        }
    };
    let wanted = reference.section_name.as_deref();
    section.is_some_and(|section| wanted.is_none_or(|wanted| wanted == section))
        && reference
            .port
            .is_none_or(|wanted| wanted == i64::from(place.port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use weft_ir::RouteKind;
    use weft_translate::Controller;

    use super::*;

    fn place(listener: &str) -> Place {
        Place {
            gateway: GatewayId::new("infra", "gw"),
            port: 80,
            listener: listener.into(),
        }
    }

    fn is_at(listener: &str, parent: serde_json::Value) -> bool {
        let route = RouteId {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "r".into(),
        };
        let parent = ParentStatus {
            parent_ref: serde_json::from_value(parent).unwrap(),
            controller: Controller::Gateway,
            conditions: Vec::new(),
        };
        super::is_at(&place(listener), &route, &parent)
    }

    #[test]
    fn gateway_is_the_parent_of_its_listeners() {
        for (parent, is) in [
            (json!({"name": "gw", "namespace": "infra"}), true),
            (json!({"name": "gw"}), false),
            (
                json!({"name": "gw", "namespace": "infra", "sectionName": "http"}),
                true,
            ),
            (
                json!({"name": "gw", "namespace": "infra", "sectionName": "https"}),
                false,
            ),
            (
                json!({"name": "gw", "namespace": "infra", "port": 80}),
                true,
            ),
            (
                json!({"name": "gw", "namespace": "infra", "port": 81}),
                false,
            ),
            (
                json!({"name": "gw", "namespace": "infra", "kind": "ListenerSet"}),
                false,
            ),
        ] {
            assert_eq!(is_at("http", parent.clone()), is, "{parent}");
        }
    }

    #[test]
    fn listener_set_is_the_parent_of_its_listeners() {
        for (parent, is) in [
            (json!({"name": "set", "kind": "ListenerSet"}), true),
            (
                json!({"name": "set", "kind": "ListenerSet", "sectionName": "http"}),
                true,
            ),
            (
                json!({"name": "set", "kind": "ListenerSet", "sectionName": "x"}),
                false,
            ),
            (json!({"name": "gw", "namespace": "infra"}), false),
            (json!({"name": "set"}), false),
        ] {
            assert_eq!(is_at("shop/set/http", parent.clone()), is, "{parent}");
        }
    }
}
