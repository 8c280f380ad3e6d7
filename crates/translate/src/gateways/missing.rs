//! Missing parents: Gateways and ListenerSets that routes refer to and that do not exist.
//!
//! It is not known which controller would manage such a parent, so no status may report it
//! (`RouteStatus.parents`: references that cannot be resolved are not added). The controller
//! reports them as Events instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use crate::input::Objects;
use crate::names::GROUP;
use crate::names::{gateway_named, route_id};
use crate::objects::{Meta, ParentRef};
use crate::routes::RouteObject;

/// Number of existing objects that a message lists.
const NAMED: usize = 5;

/// A route that refers to parents which do not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingParents {
    /// The route.
    pub route: RouteId,
    /// UID of the route.
    pub uid: String,
    /// The missing parents, for users.
    pub message: String,
}

/// The existing objects, by namespace and name.
struct Present<'a> {
    gateways: BTreeSet<(&'a str, &'a str)>,
    sets: BTreeSet<(&'a str, &'a str)>,
}

/// Ordered by kind, namespace and name of the routes.
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
    fn missing<T: RouteObject>(&self, kind: RouteKind, routes: &[Arc<T>]) -> Vec<MissingParents> {
        let missing = routes.iter().filter_map(|of| {
            let (meta, parents) = (of.meta(), of.parent_refs().iter().enumerate());
            let missing = parents.filter_map(|(position, entry)| {
                let what = self.lacks(entry.as_ref().ok()?, &meta.namespace)?;
                Some(format!("parentRefs[{position}]: {what}"))
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

    /// Returns a message if the parent does not exist, and `None` if it exists or is of another
    /// kind.
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
        "{kind} {namespace}/{name} does not exist; namespace {namespace} has {has}; create it, or \
         refer to another"
    ))
}
