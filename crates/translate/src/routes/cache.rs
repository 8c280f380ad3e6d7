//! Incremental translation of routes: a route is translated again only if it or one of its lookups
//! changed.

use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use super::backends::RuleContext;
use super::compiled::{CompiledRule, Rules};
use super::object::RouteObject;
use super::report::Report;
use super::resolver::{Lookups, Resolver, SharedInputs, TrackedLookup};
use super::route::Route;
use super::{connections, grpc, http};
use crate::input::Objects;
use crate::memo::ObjectMemo;
use crate::objects::{GrpcRoute, HttpRoute, Lenient, ParentRef, TcpRoute, TlsRoute};

/// Returns true if a route of this kind, with these parents, in this namespace has to be
/// translated.
pub(crate) type RouteFilter<'w> = &'w dyn Fn(RouteKind, &[Lenient<ParentRef>], &str) -> bool;

/// The last translation of routes, each with the result of `finish`.
#[derive(Debug)]
pub(crate) struct RouteCache<O> {
    http: KindCache<HttpRoute, O>,
    grpc: KindCache<GrpcRoute, O>,
    tls: KindCache<TlsRoute, O>,
    tcp: KindCache<TcpRoute, O>,
    udp: KindCache<TcpRoute, O>,
}

type KindCache<T, O> = ObjectMemo<T, SharedInputs, Arc<CachedRoute<O>>>;

/// The translation of a route, with the lookups that it depends on.
#[derive(Debug)]
struct CachedRoute<O> {
    /// `None` if the object is not even a map.
    route: Option<O>,
    lookups: Lookups,
}

impl<O> Default for RouteCache<O> {
    fn default() -> Self {
        Self {
            http: ObjectMemo::default(),
            grpc: ObjectMemo::default(),
            tls: ObjectMemo::default(),
            tcp: ObjectMemo::default(),
            udp: ObjectMemo::default(),
        }
    }
}

/// Completes a translated route. A function pointer, since a closure could capture objects that the
/// memo would not know of.
pub(crate) type Finish<O> = fn(Route, &TrackedLookup<'_>) -> O;

impl<O: Clone> RouteCache<O> {
    /// Translates the `wanted` routes of every kind.
    pub(crate) fn translated(
        &mut self,
        objects: &Objects,
        resolver: &Resolver,
        wanted: RouteFilter<'_>,
        finish: Finish<O>,
    ) -> Vec<O> {
        let from = Inputs {
            resolver,
            wanted,
            finish,
        };
        let all = [
            from.translated(RouteKind::Http, &mut self.http, &objects.http_routes, http),
            from.translated(RouteKind::Grpc, &mut self.grpc, &objects.grpc_routes, grpc),
            from.translated(RouteKind::Tls, &mut self.tls, &objects.tls_routes, tls),
            from.translated(RouteKind::Tcp, &mut self.tcp, &objects.tcp_routes, bytes),
            from.translated(RouteKind::Udp, &mut self.udp, &objects.udp_routes, bytes),
        ];
        let all = all.iter().flatten();
        all.filter_map(|made| made.route.clone()).collect()
    }
}

/// The inputs of a translation that all kinds share.
struct Inputs<'a, O> {
    resolver: &'a Resolver,
    wanted: RouteFilter<'a>,
    finish: Finish<O>,
}

/// Translates the rules of a route. A function pointer, for the same reason as [`Finish`].
type RuleCompiler<T> = fn(&T, &RouteId, &TrackedLookup<'_>, &mut Report) -> Option<Rules>;

impl<O> Inputs<'_, O> {
    fn translated<T: RouteObject + 'static>(
        &self,
        kind: RouteKind,
        cache: &mut KindCache<T, O>,
        routes: &[Arc<T>],
        rules: RuleCompiler<T>,
    ) -> Vec<Arc<CachedRoute<O>>> {
        let wanted = |of: &&Arc<T>| (self.wanted)(kind, of.parent_refs(), &of.meta().namespace);
        cache.map_valid(
            routes.iter().filter(wanted),
            self.resolver.shared_inputs(),
            |made| self.resolver.lookups_hold(&made.lookups),
            |of| {
                let lookup = self.resolver.track();
                let route = Route::new(kind, of, &lookup, rules);
                Arc::new(CachedRoute {
                    route: route.map(|route| (self.finish)(route, &lookup)),
                    lookups: lookup.finish(),
                })
            },
        )
    }
}

fn http(
    of: &HttpRoute,
    id: &RouteId,
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> Option<Rules> {
    let specs = &of.spec.as_ref().ok()?.rules;
    let rules = request_rules(id, specs, lookup, report, http::rule);
    Some(Rules::Requests(rules))
}

fn grpc(
    of: &GrpcRoute,
    id: &RouteId,
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> Option<Rules> {
    let specs = &of.spec.as_ref().ok()?.rules;
    let rules = request_rules(id, specs, lookup, report, grpc::rule);
    Some(Rules::Requests(rules))
}

fn tls(
    of: &TlsRoute,
    id: &RouteId,
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> Option<Rules> {
    let spec = of.spec.as_ref().ok()?;
    let rule = connections::tls_rule(id, spec, lookup, report);
    Some(Rules::Tls(rule))
}

/// For TCPRoutes and UDPRoutes.
fn bytes(
    of: &TcpRoute,
    id: &RouteId,
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> Option<Rules> {
    let specs = &of.spec.as_ref().ok()?.rules;
    let rule = connections::rule(id, specs, lookup, report);
    Some(Rules::Connections(rule))
}

/// Translates each rule separately, so that an unreadable rule does not affect the others.
fn request_rules<T>(
    id: &RouteId,
    specs: &[Lenient<T>],
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
    rule: impl Fn(&RouteId, &T, &RuleContext<'_>, &mut Report) -> CompiledRule,
) -> Vec<CompiledRule> {
    let rules = (0..).zip(specs).map(|(index, spec)| {
        let context = RuleContext {
            route: id,
            rule: index,
            lookup,
        };
        match spec.as_ref() {
            Ok(spec) => rule(id, spec, &context, report),
            Err(why) => http::unreadable(id, index, why, report),
        }
    });
    rules.collect()
}
