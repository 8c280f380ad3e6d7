//! Names defined by the APIs: groups, labels, the objects that references name, and TLS options.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_ir::{GatewayId, RouteId, RouteKind};

use crate::objects::{Meta, ParentRef};

/// API group of the Gateway API.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// Label with the name of the Gateway that an object was created for (GEP-1762).
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Label with the name of that Gateway's class (GEP-1762).
pub const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";

/// Returns the Gateway that a parent reference names, or `None` if it names an object of another
/// kind.
pub(crate) fn gateway_named(parent: &ParentRef, own: &str) -> Option<GatewayId> {
    let group = parent.group.as_deref().unwrap_or(GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().filter(|ns| !ns.is_empty());
    (group == GROUP && kind == "Gateway")
        .then(|| GatewayId::new(namespace.unwrap_or(own), &*parent.name))
}

/// Returns the first unsupported TLS option that this implementation has to understand: those
/// without a domain, which belong to the API, and those of Weft. Options of other domains are meant
/// for other implementations.
pub(crate) fn unknown_option<V>(options: &BTreeMap<String, V>) -> Option<&str> {
    let ours = |name: &&String| match name.split_once('/') {
        None => true,
        Some((domain, _)) => domain == "weft.dev" || domain.ends_with(".weft.dev"),
    };
    options.keys().find(ours).map(String::as_str)
}

pub(crate) fn route_id(kind: RouteKind, meta: &Meta) -> RouteId {
    RouteId {
        kind,
        namespace: Arc::from(&*meta.namespace),
        name: Arc::from(&*meta.name),
    }
}
