//! Services whose own routes Gateways apply as well: their rules, as gateways see them.
//!
//! By the specification (GEP-1294) a Gateway applies its own routes alone; a Service asks for more by an annotation. Of
//! its routes those of its own namespace count, by request: HTTPRoutes or GRPCRoutes. Their backends are looked up as
//! those of Gateways' routes are, so that nobody opens a Service of another namespace to the outside without a
//! ReferenceGrant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{RouteKind, Routing, ServiceId, ServicePort, ServiceRules};

use crate::input::Objects;
use crate::limits::Size;
use crate::objects::{Lenient, ParentRef};
use crate::routes::{Resolver, Route};
use crate::service_routes::attach::{Attached, Attachments, Memo, on_services, parents};
use crate::service_routes::views::routing;

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
    /// What they take of each port of a Gateway that leads there.
    size: Size,
    /// Backends that were found, whether they can be used or not.
    targets: BTreeSet<ServicePort>,
}

impl Composed {
    /// `resolver`: that of Gateways' routes; `memo`: of these routes as they were translated last.
    pub(crate) fn new(memo: &mut Memo, objects: &Objects, resolver: &Resolver) -> Self {
        let mut all = Self::default();
        let asking = resolver.services().iter().filter(|of| of.composed);
        let asking: BTreeMap<&ServiceId, _> = asking.map(|of| (of.id.as_ref(), of)).collect();
        if asking.is_empty() {
            return all;
        }
        let wanted = |kind, of: &[Lenient<ParentRef>], namespace: &str| {
            matches!(kind, RouteKind::Http | RouteKind::Grpc)
                && parents(of, namespace)
                    .any(|(_, _, id)| id.namespace == namespace && asking.contains_key(&id))
        };
        let routes = on_services(memo, objects, resolver, &wanted);
        let attached = Attachments::new(&routes);
        for port in asking.values().flat_map(|info| &info.ports) {
            let producers = attached.groups(&port.id).find(|(group, _)| group.is_none());
            let Some((_, members)) = producers else {
                continue;
            };
            let members: Vec<_> = members.iter().map(|place| &routes[*place]).collect();
            if let Some(own) = own_rules(&port.id, &members) {
                let of = members.iter().flat_map(|of| refused(&of.route));
                all.warnings.extend(of);
                all.by_port.insert(port.id.as_ref().clone(), own);
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

    /// What the rules of the port take; `None`: it has none.
    pub(crate) fn size(&self, port: &ServicePort) -> Option<Size> {
        self.by_port.get(port).map(|of| of.size)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }
}

fn own_rules(id: &ServicePort, members: &[&Arc<Attached>]) -> Option<OwnRules> {
    let (Routing::Http(rules) | Routing::Grpc(rules)) = routing(members.iter().copied()) else {
        return None;
    };
    let targets = members.iter().flat_map(|of| &of.route.report.targets);
    Some(OwnRules {
        targets: targets.cloned().collect(),
        size: Size::of_requests(rules.iter().map(|rule| &**rule)),
        rules: Arc::new(ServiceRules {
            id: id.clone(),
            rules,
        }),
    })
}

/// Warnings of backends that no ReferenceGrant permits.
fn refused(route: &Route) -> impl Iterator<Item = String> {
    let faults = route.report.unresolved.iter();
    faults
        .filter(|fault| fault.reason == "RefNotPermitted")
        .map(|fault| format!("{}, at Gateways: {}", route.id, fault.text))
}
