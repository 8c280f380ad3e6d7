//! Names of the APIs: groups, labels, and what references and TLS options mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_ir::{GatewayId, RouteId, RouteKind};

use crate::objects::{Meta, ParentRef};

/// The group of all of them.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// The name of the Gateway that an object was made for.
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// The name of its class.
pub const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";

/// The Gateway that a reference names; `None`: it is none.
pub(crate) fn gateway_named(parent: &ParentRef, own: &str) -> Option<GatewayId> {
    let group = parent.group.as_deref().unwrap_or(GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().filter(|ns| !ns.is_empty());
    (group == GROUP && kind == "Gateway")
        .then(|| GatewayId::new(namespace.unwrap_or(own), &*parent.name))
}

/// The first that is for us: the API's own, which have no domain, and those of ours. Others are for other implementations.
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
