//! Routes on Services: to which ports a route is attached, for whose traffic, and which kind of route prevails.
//!
//! Source: GEP-1294, "Ports", "Route types", "Namespace boundaries" and "Multiple routes for a Service".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{Protocol, RouteKind, ServiceId, ServicePort};

use crate::cluster::services::{Frontend, PortInfo};
use crate::input::Objects;
use crate::limits::Budget;
use crate::objects::{Lenient, ParentRef};
use crate::routes::{self, Resolver, Route, Wanted};
use crate::service_routes::views::Routes;

/// Whose traffic a route binds: `None` that of all clients (it is in the Service's own namespace), else that of the
/// clients of this namespace.
pub(crate) type Group = Option<String>;

type Groups = BTreeMap<Group, BTreeSet<usize>>;

/// The routes on every Service port, by group; each a place in the list of routes, in the order that decides ties.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    by_port: BTreeMap<ServicePort, Groups>,
    /// By port, and place of the route: why the port has no room for it.
    full: BTreeMap<(ServicePort, usize), String>,
}

/// A route with those of its parents that are Services.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) route: Route,
    /// In the order of its parentRefs; parents of other kinds are somebody else's.
    pub(crate) attachments: Vec<Attachment>,
}

/// One parentRef of a route that is a Service.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// In the route's list.
    pub(crate) place: usize,
    pub(crate) parent_ref: ParentRef,
    pub(crate) group: Group,
    /// The ports, or why there are none.
    pub(crate) ports: Result<Vec<ServicePort>, String>,
}

impl Attached {
    fn new(route: Route, resolver: &Resolver) -> Self {
        let own = &*route.id.namespace;
        let attachments =
            parents(route.source.parent_refs(), own).map(|(place, parent_ref, id)| {
                let group = (id.namespace != own).then(|| own.to_owned());
                Attachment {
                    place,
                    group,
                    ports: ports(&id, parent_ref, route.id.kind, resolver),
                    parent_ref: parent_ref.clone(),
                }
            });
        Self {
            attachments: attachments.collect(),
            route,
        }
    }
}

/// The parents that are Services, each with its place in the list of a route of the namespace `own`.
pub(crate) fn parents<'a>(
    refs: &'a [Lenient<ParentRef>],
    own: &str,
) -> impl Iterator<Item = (usize, &'a ParentRef, ServiceId)> {
    let refs = refs.iter().enumerate();
    refs.filter_map(move |(place, entry)| {
        let parent = entry.as_ref().ok().filter(|parent| is_service(parent))?;
        let namespace = parent.namespace.as_deref().filter(|ns| !ns.is_empty());
        let id = ServiceId::new(namespace.unwrap_or(own), &*parent.name);
        Some((place, parent, id))
    })
}

/// Routes with their Services as they were translated last.
pub(crate) type Memo = routes::Memo<Arc<Attached>>;

/// The routes that are wanted, with their Services, in the order that decides ties.
pub(crate) fn on_services(
    memo: &mut Memo,
    objects: &Objects,
    resolver: &Resolver,
    wanted: Wanted<'_>,
) -> Vec<Arc<Attached>> {
    let attached = |route| Arc::new(Attached::new(route, resolver));
    let mut routes = memo.translated(objects, resolver, wanted, attached);
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
    resolver: &Resolver,
) -> Result<Vec<ServicePort>, String> {
    let ParentRef {
        group: _,
        kind: _,
        namespace: _,
        name: _,
        section_name,
        port,
    } = parent;
    let service = resolver
        .service(id)
        .ok_or_else(|| format!("there is no Service {id}"))?;
    let unfit = match &service.frontend {
        Frontend::ClusterIp(_) => None,
        Frontend::Headless => Some(
            "is headless: it has no cluster IP that traffic to it could be told by; attach to a ClusterIP Service",
        ),
        Frontend::ExternalName => {
            Some("is of type ExternalName, which cannot be a parent; attach to a ClusterIP Service")
        }
        Frontend::Pending => Some("has no cluster IP yet"),
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
        .filter(|info| fits(kind, info.protocol))
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
                "speaks TLS or opaque TCP by its appProtocol or name, and cannot be routed by request; set \
                 appProtocol: http if it speaks HTTP"
            }
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => {
                "speaks HTTP without TLS by its appProtocol or name, and cannot be routed by the name of a TLS server; \
                 set appProtocol: tls if it speaks TLS"
            }
        };
        return Err(format!("port {numbers} of Service {id} {why}"));
    }
    Ok(routable)
}

/// Whether routes of the kind can route what a port says it speaks.
fn fits(kind: RouteKind, speaks: Protocol) -> bool {
    let plain_http = matches!(speaks, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc);
    match kind {
        RouteKind::Http | RouteKind::Grpc => plain_http || speaks == Protocol::Detect,
        RouteKind::Tls => !plain_http,
        RouteKind::Tcp => true,
        // No Service of TCP is a parent for datagrams.
        RouteKind::Udp => false,
    }
}

impl Attachments {
    /// `routes` in the order that decides ties, each with its attachments.
    pub(crate) fn new(routes: &Routes) -> Self {
        let mut all = Self::default();
        let mut budgets = BTreeMap::new();
        for (place, of) in routes.iter().enumerate() {
            for attachment in &of.attachments {
                for port in attachment.ports.iter().flatten() {
                    // Rules of one kind, for clients of one group, are sent together.
                    let key = (port, &attachment.group, of.route.id.kind);
                    let (taken, budget) = budgets
                        .entry(key)
                        .or_insert_with(|| (BTreeSet::new(), Budget::of_service_port()));
                    if taken.insert(place)
                        && let Err(why) = budget.take(of.route.size, &format!("port {port}"))
                    {
                        all.full.insert((port.clone(), place), why);
                    }
                    if all.full.contains_key(&(port.clone(), place)) {
                        continue;
                    }
                    let groups = all.by_port.entry(port.clone()).or_default();
                    let group = groups.entry(attachment.group.clone()).or_default();
                    group.insert(place);
                }
            }
        }
        all
    }

    /// Why the port has no room for the route at `place`.
    pub(crate) fn no_room(&self, port: &ServicePort, place: usize) -> Option<&str> {
        let why = self.full.get(&(port.clone(), place));
        why.map(String::as_str)
    }

    /// Every port that has routes.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (&ServicePort, &Groups)> {
        self.by_port.iter()
    }

    /// The groups of routes on a port.
    pub(crate) fn groups(
        &self,
        port: &ServicePort,
    ) -> impl Iterator<Item = (&Group, &BTreeSet<usize>)> {
        self.by_port.get(port).into_iter().flatten()
    }

    /// The route that the one at `place` gives way to on `port`: of a kind that goes before its own, or, since nothing
    /// tells their connections apart, the first of several TCPRoutes.
    pub(crate) fn prevailing<'r>(
        &self,
        port: &ServicePort,
        group: &Group,
        place: usize,
        routes: &'r Routes,
    ) -> Option<&'r Route> {
        let kind = |place: usize| routes[place].route.id.kind;
        let members = self.by_port.get(port)?.get(group)?;
        let first = *members.iter().min_by_key(|place| kind(**place))?;
        let gives_way =
            kind(first) < kind(place) || (kind(place) == RouteKind::Tcp && first != place);
        gives_way.then(|| &routes[first].route)
    }
}
