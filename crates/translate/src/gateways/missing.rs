//! Parents that do not exist: Gateways and ListenerSets that routes name and nobody has.
//!
//! Whose such a parent would be nobody knows, so that no status may speak of it (`RouteStatus.parents`: references that
//! cannot be resolved are not added). What is found here is told otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use crate::input::Objects;
use crate::names::GROUP;
use crate::names::{gateway_named, route_id};
use crate::objects::{Meta, ParentRef};
use crate::routes::Source;

/// Names of what there is that a message lists.
const NAMED: usize = 5;

/// A route with such parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingParents {
    pub route: RouteId,
    /// The object's.
    pub uid: String,
    pub message: String,
}

/// What there is, by namespace and name.
struct Present<'a> {
    gateways: BTreeSet<(&'a str, &'a str)>,
    sets: BTreeSet<(&'a str, &'a str)>,
}

/// By kind, namespace and name of the routes.
pub(crate) fn missing_parents(objects: &Objects) -> Vec<MissingParents> {
    let present = Present {
        gateways: objects
            .gateways
            .iter()
            .map(|of| key(&of.metadata))
            .collect(),
        sets: objects
            .listener_sets
            .iter()
            .map(|of| key(&of.metadata))
            .collect(),
    };
    let Objects {
        http_routes,
        grpc_routes,
        tls_routes,
        tcp_routes,
        udp_routes,
        ..
    } = objects;
    let all = [
        present.missing(RouteKind::Http, http_routes),
        present.missing(RouteKind::Grpc, grpc_routes),
        present.missing(RouteKind::Tls, tls_routes),
        present.missing(RouteKind::Tcp, tcp_routes),
        present.missing(RouteKind::Udp, udp_routes),
    ];
    let mut all: Vec<MissingParents> = all.into_iter().flatten().collect();
    all.sort_by(|a, b| order(&a.route).cmp(&order(&b.route)));
    all
}

fn key(meta: &Meta) -> (&str, &str) {
    (&meta.namespace, &meta.name)
}

fn order(route: &RouteId) -> (RouteKind, &str, &str) {
    (route.kind, &route.namespace, &route.name)
}

impl Present<'_> {
    fn missing<T: Source>(&self, kind: RouteKind, routes: &[Arc<T>]) -> Vec<MissingParents> {
        let missing = routes.iter().filter_map(|of| {
            let (meta, parents) = (of.meta(), of.parent_refs().iter().enumerate());
            let missing = parents.filter_map(|(place, entry)| {
                let what = self.lacks(entry.as_ref().ok()?, &meta.namespace)?;
                Some(format!("parentRefs[{place}]: {what}"))
            });
            let missing: Vec<String> = missing.collect();
            (!missing.is_empty()).then(|| MissingParents {
                route: route_id(kind, meta),
                uid: meta.uid.clone(),
                message: missing.join("; "),
            })
        });
        missing.collect()
    }

    /// What is not there; `None`: it is, or it is of another kind, which is somebody else's.
    fn lacks(&self, parent: &ParentRef, own: &str) -> Option<String> {
        if let Some(id) = gateway_named(parent, own) {
            return lacks("Gateway", (&id.namespace, &id.name), &self.gateways);
        }
        let group = parent.group.as_deref().unwrap_or(GROUP);
        if group != GROUP || parent.kind.as_deref() != Some("ListenerSet") {
            return None;
        }
        let namespace = parent.namespace.as_deref().filter(|ns| !ns.is_empty());
        let key = (namespace.unwrap_or(own), &*parent.name);
        lacks("ListenerSet", key, &self.sets)
    }
}

fn lacks(
    kind: &str,
    (namespace, name): (&str, &str),
    present: &BTreeSet<(&str, &str)>,
) -> Option<String> {
    if present.contains(&(namespace, name)) {
        return None;
    }
    let there = present.range((namespace, "")..);
    let there = there.take_while(|(of, _)| *of == namespace);
    let names: Vec<&str> = there.map(|(_, name)| *name).collect();
    let has = match &names[..] {
        [] => "none".to_owned(),
        few if few.len() <= NAMED => few.join(", "),
        many => format!(
            "{} and {} more",
            many[..NAMED].join(", "),
            many.len() - NAMED
        ),
    };
    Some(format!(
        "there is no {kind} {namespace}/{name}; namespace {namespace} has {has}: create it, or name another"
    ))
}
