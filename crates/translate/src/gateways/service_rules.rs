//! The own routes of Services that Gateways apply in addition to the Gateway's routes.
//!
//! By the specification (GEP-1294) a Gateway only applies its own routes; a Service opts in by an
//! annotation. Of its routes, only producer HTTPRoutes and GRPCRoutes apply. Their backends are
//! resolved as those of Gateways' routes are, so that a Service of another namespace cannot be
//! exposed without a ReferenceGrant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{RouteKind, Routing, ServiceId, ServicePort, ServiceRules};

use crate::input::Objects;
use crate::limits::Size;
use crate::objects::{Lenient, ParentRef};
use crate::routes::{Resolver, Route};
use crate::service_routes::attach::{
    AttachedRoute, Attachments, ServiceRouteCache, attached_routes, service_parents,
};
use crate::service_routes::views::routing;

/// The applied rules, by port of a Service that opted in.
#[derive(Debug, Default)]
pub(crate) struct AppliedServiceRules {
    by_port: BTreeMap<ServicePort, OwnRules>,
    /// Warnings about backends that work in the mesh but not at Gateways.
    pub(crate) warnings: BTreeSet<String>,
}

#[derive(Debug)]
struct OwnRules {
    rules: Arc<ServiceRules>,
    /// Their size on each port of a Gateway that leads to the Service.
    size: Size,
    /// The backends that exist, whether usable or not.
    targets: BTreeSet<ServicePort>,
}

impl AppliedServiceRules {
    /// `resolver` is that of Gateways' routes.
    pub(crate) fn new(
        cache: &mut ServiceRouteCache,
        objects: &Objects,
        resolver: &Resolver,
    ) -> Self {
        let mut all = Self::default();
        let asking = resolver
            .untracked_services()
            .iter()
            .filter(|of| of.routes_at_gateways);
        let asking: BTreeMap<&ServiceId, _> = asking.map(|of| (of.id.as_ref(), of)).collect();
        if asking.is_empty() {
            return all;
        }
        let wanted = |kind, of: &[Lenient<ParentRef>], namespace: &str| {
            matches!(kind, RouteKind::Http | RouteKind::Grpc)
                && service_parents(of, namespace)
                    .any(|(_, _, id)| id.namespace == namespace && asking.contains_key(&id))
        };
        let routes = attached_routes(cache, objects, resolver, &wanted);
        let attached = Attachments::new(&routes);
        for port in asking.values().flat_map(|info| &info.ports) {
            let producers = attached
                .consumers(&port.id)
                .find(|(consumer, _)| consumer.is_none());
            let Some((_, members)) = producers else {
                continue;
            };
            let members: Vec<_> = members.iter().map(|position| &routes[*position]).collect();
            if let Some(own) = own_rules(&port.id, &members) {
                let of = members.iter().flat_map(|of| refused(&of.route));
                all.warnings.extend(of);
                all.by_port.insert(port.id.as_ref().clone(), own);
            }
        }
        all
    }

    /// Returns the rules of those ports that have some.
    pub(crate) fn rules(&self, ports: &BTreeSet<ServicePort>) -> Vec<Arc<ServiceRules>> {
        let known = ports.iter().filter_map(|port| self.by_port.get(port));
        known.map(|of| Arc::clone(&of.rules)).collect()
    }

    /// Returns the backends of the rules of a port.
    pub(crate) fn targets(&self, port: &ServicePort) -> impl Iterator<Item = &ServicePort> {
        self.by_port
            .get(port)
            .into_iter()
            .flat_map(|of| &of.targets)
    }

    /// Returns the size of the rules of a port, or `None` if it has none.
    pub(crate) fn size(&self, port: &ServicePort) -> Option<Size> {
        self.by_port.get(port).map(|of| of.size)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }
}

fn own_rules(id: &ServicePort, members: &[&Arc<AttachedRoute>]) -> Option<OwnRules> {
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

/// Returns warnings about backends that no ReferenceGrant permits.
fn refused(route: &Route) -> impl Iterator<Item = String> {
    let faults = route.report.unresolved.iter();
    faults
        .filter(|fault| fault.reason == "RefNotPermitted")
        .map(|fault| format!("{} at Gateways: {}", route.id, fault.text))
}
