//! Routes as rules, and what is wrong with them: the same for every parent that a route has.

mod backends;
mod connections;
mod filters;
mod grpc;
mod http;
mod report;
mod values;

use std::sync::Arc;

use weft_ir::{ConnectionRule, RouteId, RouteKind, Rule, TlsRule};

use crate::Objects;
use crate::objects::{GrpcRoute, HttpRoute, Lenient, Meta, ParentRef, TcpRoute, TlsRoute};

pub(crate) use backends::{GatewayRules, Resolver};
pub(crate) use connections::CompiledConnections;
pub(crate) use report::{Fault, Report};
pub(crate) use values::host_patterns;

/// A route, translated.
#[derive(Debug)]
pub(crate) struct Route<'a> {
    pub(crate) id: RouteId,
    pub(crate) meta: &'a Meta,
    pub(crate) parent_refs: &'a [Lenient<ParentRef>],
    /// As they stand in the route.
    pub(crate) hostnames: &'a [Lenient<String>],
    pub(crate) rules: Rules,
    pub(crate) report: Report,
}

/// What a route routes.
#[derive(Debug)]
pub(crate) enum Rules {
    Requests(Vec<CompiledRule>),
    /// `None`: no name of its servers can be read, so that it takes nothing.
    Tls(Option<CompiledConnections<TlsRule>>),
    Bytes(CompiledConnections<ConnectionRule>),
}

impl Rules {
    /// Whether anything in the route works as it was meant.
    pub(crate) fn work(&self) -> bool {
        match self {
            Self::Requests(rules) => rules.iter().any(|rule| rule.works),
            Self::Tls(rule) => rule.as_ref().is_some_and(|rule| rule.works),
            Self::Bytes(rule) => rule.works,
        }
    }
}

#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) rule: Rule,
    /// Some request can meet it as it was meant.
    pub(crate) works: bool,
}

/// Whether a route of this kind, with these parents, in this namespace is wanted.
pub(crate) type Wanted<'w> = &'w dyn Fn(RouteKind, &[Lenient<ParentRef>], &str) -> bool;

/// The routes that are wanted, of every kind.
pub(crate) fn translated<'a>(
    objects: &'a Objects,
    resolver: Resolver<'_>,
    wanted: Wanted<'_>,
) -> Vec<Route<'a>> {
    let http = objects.http_routes.iter().filter_map(|of| {
        let parents = &of.spec.as_ref().ok()?.parent_refs;
        wanted(RouteKind::Http, parents, &of.metadata.namespace)
            .then(|| Route::http(of, resolver))?
    });
    let grpc = objects.grpc_routes.iter().filter_map(|of| {
        let parents = &of.spec.as_ref().ok()?.parent_refs;
        wanted(RouteKind::Grpc, parents, &of.metadata.namespace)
            .then(|| Route::grpc(of, resolver))?
    });
    let tls = objects.tls_routes.iter().filter_map(|of| {
        let parents = &of.spec.as_ref().ok()?.parent_refs;
        wanted(RouteKind::Tls, parents, &of.metadata.namespace).then(|| Route::tls(of, resolver))?
    });
    let tcp = objects.tcp_routes.iter().map(|of| (RouteKind::Tcp, of));
    let udp = objects.udp_routes.iter().map(|of| (RouteKind::Udp, of));
    let bytes = tcp.chain(udp).filter_map(|(kind, of)| {
        let parents = &of.spec.as_ref().ok()?.parent_refs;
        wanted(kind, parents, &of.metadata.namespace).then(|| Route::bytes(kind, of, resolver))?
    });
    http.chain(grpc).chain(tls).chain(bytes).collect()
}

impl<'a> Route<'a> {
    /// `None` when the object is not even a map: it names no parent then.
    pub(crate) fn http(route: &'a HttpRoute, resolver: Resolver<'_>) -> Option<Self> {
        let HttpRoute { metadata, spec } = route;
        let spec = spec.as_ref().ok()?;
        let id = route_id(RouteKind::Http, metadata);
        let mut report = Report::default();
        let rules = Rules::Requests(http::rules(&id, &spec.rules, resolver, &mut report));
        Some(Self {
            id,
            meta: metadata,
            parent_refs: &spec.parent_refs,
            hostnames: &spec.hostnames,
            rules,
            report,
        })
    }

    /// As [`Route::http`].
    pub(crate) fn grpc(route: &'a GrpcRoute, resolver: Resolver<'_>) -> Option<Self> {
        let GrpcRoute { metadata, spec } = route;
        let spec = spec.as_ref().ok()?;
        let id = route_id(RouteKind::Grpc, metadata);
        let mut report = Report::default();
        let rules = Rules::Requests(grpc::rules(&id, &spec.rules, resolver, &mut report));
        Some(Self {
            id,
            meta: metadata,
            parent_refs: &spec.parent_refs,
            hostnames: &spec.hostnames,
            rules,
            report,
        })
    }

    /// As [`Route::http`].
    pub(crate) fn tls(route: &'a TlsRoute, resolver: Resolver<'_>) -> Option<Self> {
        let TlsRoute { metadata, spec } = route;
        let spec = spec.as_ref().ok()?;
        let id = route_id(RouteKind::Tls, metadata);
        let mut report = Report::default();
        let rule = connections::tls_rule(&id, spec, resolver, &mut report);
        Some(Self {
            id,
            meta: metadata,
            parent_refs: &spec.parent_refs,
            hostnames: &spec.hostnames,
            rules: Rules::Tls(rule),
            report,
        })
    }

    /// Of a TCPRoute or a UDPRoute. As [`Route::http`].
    pub(crate) fn bytes(
        kind: RouteKind,
        route: &'a TcpRoute,
        resolver: Resolver<'_>,
    ) -> Option<Self> {
        let TcpRoute { metadata, spec } = route;
        let spec = spec.as_ref().ok()?;
        let id = route_id(kind, metadata);
        let mut report = Report::default();
        let rule = connections::rule(&id, &spec.rules, resolver, &mut report);
        Some(Self {
            id,
            meta: metadata,
            parent_refs: &spec.parent_refs,
            hostnames: &[],
            rules: Rules::Bytes(rule),
            report,
        })
    }
}

impl Route<'_> {
    /// The order that decides ties between routes (specification of `HTTPRouteRule.matches`).
    pub(crate) fn tie_order(&self) -> (String, String) {
        let age = self.meta.creation_timestamp.clone();
        (age, format!("{}/{}", self.id.namespace, self.id.name))
    }
}

fn route_id(kind: RouteKind, meta: &Meta) -> RouteId {
    RouteId {
        kind,
        namespace: Arc::from(&*meta.namespace),
        name: Arc::from(&*meta.name),
    }
}
