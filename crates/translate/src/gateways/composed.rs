//! Services whose own routes Gateways apply as well: their rules, as gateways see them.
//!
//! By the specification (GEP-1294) a Gateway applies its own routes alone; a Service asks for more by an annotation. Of
//! its routes those of its own namespace count, by request: HTTPRoutes or GRPCRoutes. Their backends are looked up as
//! those of Gateways' routes are, so that nobody opens a Service of another namespace to the outside without a
//! ReferenceGrant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{RouteKind, Routing, ServicePort, ServiceRules};

use crate::Objects;
use crate::attach::{Attachments, on_services, parents};
use crate::objects::{Lenient, ParentRef};
use crate::routes::{Resolver, Route};
use crate::views::{Routes, routing};

/// By port of a Service that asks for it and has routes by request.
#[derive(Debug, Default)]
pub(crate) struct Composed {
    by_port: BTreeMap<ServicePort, OwnRules>,
    /// What of the routes is not in force at Gateways, where it is in the mesh.
    pub(crate) warnings: BTreeSet<String>,
}

#[derive(Debug)]
struct OwnRules {
    rules: Arc<ServiceRules>,
    /// Backends that were found, whether they can be used or not.
    targets: BTreeSet<ServicePort>,
}

impl Composed {
    /// `resolver`: that of Gateways' routes.
    pub(crate) fn new(objects: &Objects, resolver: Resolver<'_>) -> Self {
        let mut all = Self::default();
        let services = resolver.services;
        let asking: BTreeMap<_, _> = services.iter().filter(|(_, of)| of.composed).collect();
        if asking.is_empty() {
            return all;
        }
        let wanted = |kind, of: &[Lenient<ParentRef>], namespace: &str| {
            matches!(kind, RouteKind::Http | RouteKind::Grpc)
                && parents(of, namespace)
                    .any(|(_, _, id)| id.namespace == namespace && asking.contains_key(&id))
        };
        let routes = on_services(objects, resolver, &wanted);
        let attached = Attachments::new(&routes);
        for (service, info) in &asking {
            for port in &info.ports {
                let id = ServicePort {
                    service: (*service).clone(),
                    port: port.number,
                };
                let producers = attached.groups(&id).find(|(group, _)| group.is_none());
                let Some((_, members)) = producers else {
                    continue;
                };
                if let Some(own) = own_rules(&id, members, &routes) {
                    let of = members.iter().flat_map(|place| refused(&routes[*place].0));
                    all.warnings.extend(of);
                    all.by_port.insert(id, own);
                }
            }
        }
        all
    }

    /// The rules of those of the ports that have some.
    pub(crate) fn rules(&self, ports: &BTreeSet<ServicePort>) -> Vec<Arc<ServiceRules>> {
        let known = ports.iter().filter_map(|port| self.by_port.get(port));
        known.map(|of| Arc::clone(&of.rules)).collect()
    }

    /// Where what is sent to the port goes on.
    pub(crate) fn targets(&self, port: &ServicePort) -> impl Iterator<Item = &ServicePort> {
        self.by_port
            .get(port)
            .into_iter()
            .flat_map(|of| &of.targets)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }
}

fn own_rules(id: &ServicePort, members: &BTreeSet<usize>, routes: &Routes<'_>) -> Option<OwnRules> {
    let (Routing::Http(rules) | Routing::Grpc(rules)) = routing(members, routes) else {
        return None;
    };
    let routes = members.iter().map(|place| &routes[*place].0);
    let targets = routes.flat_map(|route| route.report.targets.iter().cloned());
    Some(OwnRules {
        targets: targets.collect(),
        rules: Arc::new(ServiceRules {
            id: id.clone(),
            rules,
        }),
    })
}

/// Warnings of backends that no ReferenceGrant permits.
fn refused(route: &Route<'_>) -> impl Iterator<Item = String> {
    let faults = route.report.unresolved.iter();
    faults
        .filter(|fault| fault.reason == "RefNotPermitted")
        .map(|fault| format!("{}, at Gateways: {}", route.id, fault.text))
}
