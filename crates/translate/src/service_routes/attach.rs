//! Routes on Services: the ports that a route attaches to, the clients that it applies to, and the
//! kind of route that takes precedence.
//!
//! Source: GEP-1294, "Ports", "Route types", "Namespace boundaries" and "Multiple routes for a
//! Service".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{Protocol, RouteKind, ServiceId, ServicePort};

use crate::cluster::services::{PortInfo, ServiceAddressing};
use crate::input::Objects;
use crate::limits::Budget;
use crate::objects::{Lenient, ParentRef};
use crate::routes::{self, Resolver, Route, RouteFilter, TrackedLookup};
use crate::service_routes::views::Routes;

/// The clients that a route applies to: `None` for all clients (a producer route, in the namespace
/// of the Service), else those of this namespace (a consumer route).
pub(crate) type ConsumerNamespace = Option<String>;

type RoutesByConsumer = BTreeMap<ConsumerNamespace, BTreeSet<usize>>;

/// The routes on every Service port, by consumer namespace. Routes are positions in the list of
/// routes, which is in tie-breaking order.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    by_port: BTreeMap<ServicePort, RoutesByConsumer>,
    /// Why the port has no room for the route, by port and position of the route.
    full: BTreeMap<(ServicePort, usize), String>,
}

/// A route with those of its parents that are Services.
#[derive(Debug)]
pub(crate) struct AttachedRoute {
    pub(crate) route: Route,
    /// In the order of its parentRefs. Parents of other kinds are left out.
    pub(crate) attachments: Vec<ServiceAttachment>,
}

/// One parentRef of a route that is a Service.
#[derive(Debug)]
pub(crate) struct ServiceAttachment {
    /// Position in the route's parentRefs.
    pub(crate) position: usize,
    pub(crate) parent_ref: ParentRef,
    pub(crate) consumer: ConsumerNamespace,
    /// The ports that the route attaches to, or why there are none.
    pub(crate) ports: Result<Vec<ServicePort>, String>,
}

impl AttachedRoute {
    fn shared(route: Route, lookup: &TrackedLookup<'_>) -> Arc<Self> {
        let own = &*route.id.namespace;
        let attachments =
            service_parents(route.object.parent_refs(), own).map(|(position, parent_ref, id)| {
                let consumer = (id.namespace != own).then(|| own.to_owned());
                ServiceAttachment {
                    position,
                    consumer,
                    ports: ports(&id, parent_ref, route.id.kind, lookup),
                    parent_ref: parent_ref.clone(),
                }
            });
        Arc::new(Self {
            attachments: attachments.collect(),
            route,
        })
    }
}

/// Returns the parents that are Services, each with its position in `refs`, for a route in the
/// namespace `own`.
pub(crate) fn service_parents<'a>(
    refs: &'a [Lenient<ParentRef>],
    own: &str,
) -> impl Iterator<Item = (usize, &'a ParentRef, ServiceId)> {
    let refs = refs.iter().enumerate();
    refs.filter_map(move |(position, entry)| {
        let parent = entry.as_ref().ok().filter(|parent| is_service(parent))?;
        let namespace = parent.namespace.as_deref().filter(|ns| !ns.is_empty());
        let id = ServiceId::new(namespace.unwrap_or(own), &*parent.name);
        Some((position, parent, id))
    })
}

/// The last translation of the routes on Services.
pub(crate) type ServiceRouteCache = routes::RouteCache<Arc<AttachedRoute>>;

/// Returns the `wanted` routes with their Services, in tie-breaking order.
pub(crate) fn attached_routes(
    cache: &mut ServiceRouteCache,
    objects: &Objects,
    resolver: &Resolver,
    wanted: RouteFilter<'_>,
) -> Vec<Arc<AttachedRoute>> {
    let mut routes = cache.translated(objects, resolver, wanted, AttachedRoute::shared);
    routes.sort_by_cached_key(|of| of.route.tie_order());
    routes
}

fn is_service(parent: &ParentRef) -> bool {
    matches!(parent.group.as_deref(), Some("" | "core"))
        && parent.kind.as_deref() == Some("Service")
}

fn ports(
    id: &ServiceId,
    parent: &ParentRef,
    kind: RouteKind,
    lookup: &TrackedLookup<'_>,
) -> Result<Vec<ServicePort>, String> {
    let ParentRef {
        group: _,
        kind: _,
        namespace: _,
        name: _,
        section_name,
        port,
    } = parent;
    let service = lookup
        .service(id)
        .ok_or_else(|| format!("Service {id} does not exist"))?;
    let unfit = match &service.addressing {
        ServiceAddressing::ClusterIp(_) => None,
        ServiceAddressing::Headless => Some(
            "is headless: without a cluster IP, its traffic cannot be identified; attach to a \
             ClusterIP Service",
        ),
        ServiceAddressing::ExternalName => {
            Some("is of type ExternalName, which cannot be a parent; attach to a ClusterIP Service")
        }
        ServiceAddressing::Pending => Some("has no cluster IP yet"),
    };
    if let Some(why) = unfit {
        return Err(format!("Service {id} {why}"));
    }
    let section = section_name.as_deref().filter(|name| !name.is_empty());
    let meant: Vec<&PortInfo> = service
        .ports
        .iter()
        .filter(|info| port.is_none_or(|port| i64::from(info.number) == port))
        .filter(|info| section.is_none_or(|section| info.name == section))
        .collect();
    if meant.is_empty() {
        let wanted = match (port, section) {
            (Some(port), Some(section)) => format!("no TCP port {port} named {section:?}"),
            (Some(port), None) => format!("no TCP port {port}"),
            (None, Some(section)) => format!("no TCP port named {section:?}"),
            (None, None) => "no TCP port".to_owned(),
        };
        let has = service.describe_ports();
        return Err(format!("Service {id} has {wanted}; it has {has}"));
    }
    let routable: Vec<ServicePort> = meant
        .iter()
        .filter(|info| can_route(kind, info.protocol))
        .map(|info| ServicePort {
            service: id.clone(),
            port: info.number,
        })
        .collect();
    if routable.is_empty() {
        let numbers: Vec<String> = meant.iter().map(|info| info.number.to_string()).collect();
        let numbers = numbers.join(", ");
        let why = match kind {
            RouteKind::Http | RouteKind::Grpc => {
                "is declared as TLS or opaque TCP by its appProtocol or name, so its requests \
                 cannot be routed; set appProtocol: http if it speaks HTTP"
            }
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => {
                "is declared as plain-text HTTP by its appProtocol or name, so it cannot be \
                 routed by SNI; set appProtocol: tls if it speaks TLS"
            }
        };
        return Err(format!("port {numbers} of Service {id} {why}"));
    }
    Ok(routable)
}

/// Returns true if routes of this kind can route the declared protocol of a port.
fn can_route(kind: RouteKind, protocol: Protocol) -> bool {
    let plain_http = matches!(protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc);
    match kind {
        RouteKind::Http | RouteKind::Grpc => plain_http || protocol == Protocol::Detect,
        RouteKind::Tls => !plain_http,
        RouteKind::Tcp => true,
        // In the mesh, no route applies to datagrams.
        RouteKind::Udp => false,
    }
}

impl Attachments {
    /// Expects `routes` in tie-breaking order.
    pub(crate) fn new(routes: &Routes) -> Self {
        let mut all = Self::default();
        let mut budgets = BTreeMap::new();
        for (position, of) in routes.iter().enumerate() {
            for attachment in &of.attachments {
                for port in attachment.ports.iter().flatten() {
                    // Rules of one kind and consumer namespace are sent together, so they share a
                    // budget.
                    let key = (port, &attachment.consumer, of.route.id.kind);
                    let (taken, budget) = budgets
                        .entry(key)
                        .or_insert_with(|| (BTreeSet::new(), Budget::of_service_port()));
                    if taken.insert(position)
                        && let Err(why) = budget.take(of.route.size, &format!("port {port}"))
                    {
                        all.full.insert((port.clone(), position), why);
                    }
                    if all.full.contains_key(&(port.clone(), position)) {
                        continue;
                    }
                    let consumers = all.by_port.entry(port.clone()).or_default();
                    let members = consumers.entry(attachment.consumer.clone()).or_default();
                    members.insert(position);
                }
            }
        }
        all
    }

    /// Returns why the port has no room for the route at `position`.
    pub(crate) fn port_full_reason(&self, port: &ServicePort, position: usize) -> Option<&str> {
        let why = self.full.get(&(port.clone(), position));
        why.map(String::as_str)
    }

    /// Returns every port that has routes.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (&ServicePort, &RoutesByConsumer)> {
        self.by_port.iter()
    }

    /// Returns the routes on a port, by consumer namespace.
    pub(crate) fn consumers(
        &self,
        port: &ServicePort,
    ) -> impl Iterator<Item = (&ConsumerNamespace, &BTreeSet<usize>)> {
        self.by_port.get(port).into_iter().flatten()
    }

    /// Returns the route that takes precedence over the one at `position` on `port`: one of a kind
    /// that goes first, or the first of several TCPRoutes, whose connections have nothing to match
    /// on.
    pub(crate) fn winning_route<'r>(
        &self,
        port: &ServicePort,
        consumer: &ConsumerNamespace,
        position: usize,
        routes: &'r Routes,
    ) -> Option<&'r Route> {
        let kind = |position: usize| routes[position].route.id.kind;
        let members = self.by_port.get(port)?.get(consumer)?;
        let first = *members.iter().min_by_key(|position| kind(**position))?;
        let gives_way =
            kind(first) < kind(position) || (kind(position) == RouteKind::Tcp && first != position);
        gives_way.then(|| &routes[first].route)
    }
}
