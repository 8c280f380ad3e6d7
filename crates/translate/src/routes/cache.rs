//! Incremental translation of routes: a route is translated again only if it or one of its lookups
//! changed.

use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use super::backends::RuleContext;
use super::compiled::{CompiledRule, Rules};
use super::object::RouteObject;
use super::report::Report;
use super::resolver::{Lookup, Resolver, SharedInputs};
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
    lookups: Vec<Lookup>,
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

impl<O: Clone> RouteCache<O> {
    /// Translates the `wanted` routes of every kind. `finish` may depend only on the route and on
    /// `resolver`.
    pub(crate) fn translated(
        &mut self,
        objects: &Objects,
        resolver: &Resolver,
        wanted: RouteFilter<'_>,
        finish: impl Fn(Route) -> O,
    ) -> Vec<O> {
        let finish = |route: Option<Route>| CachedRoute {
            route: route.map(&finish),
            lookups: resolver.take_lookups(),
        };
        let http = |of: &Arc<HttpRoute>| {
            finish(Route::new(RouteKind::Http, of, resolver, |id, report| {
                let specs = &of.spec.as_ref().ok()?.rules;
                let rules = request_rules(id, specs, resolver, report, http::rule);
                Some(Rules::Requests(rules))
            }))
        };
        let grpc = |of: &Arc<GrpcRoute>| {
            finish(Route::new(RouteKind::Grpc, of, resolver, |id, report| {
                let specs = &of.spec.as_ref().ok()?.rules;
                let rules = request_rules(id, specs, resolver, report, grpc::rule);
                Some(Rules::Requests(rules))
            }))
        };
        let tls = |of: &Arc<TlsRoute>| {
            finish(Route::new(RouteKind::Tls, of, resolver, |id, report| {
                let spec = of.spec.as_ref().ok()?;
                let rule = connections::tls_rule(id, spec, resolver, report);
                Some(Rules::Tls(rule))
            }))
        };
        let bytes = |kind, of: &Arc<TcpRoute>| {
            finish(Route::new(kind, of, resolver, |id, report| {
                let specs = &of.spec.as_ref().ok()?.rules;
                Some(Rules::Connections(connections::rule(
                    id, specs, resolver, report,
                )))
            }))
        };
        let tcp = |of: &_| bytes(RouteKind::Tcp, of);
        let udp = |of: &_| bytes(RouteKind::Udp, of);
        let wanted = |kind| (kind, wanted, resolver);
        let all = [
            of_kind(
                &mut self.http,
                &objects.http_routes,
                wanted(RouteKind::Http),
                http,
            ),
            of_kind(
                &mut self.grpc,
                &objects.grpc_routes,
                wanted(RouteKind::Grpc),
                grpc,
            ),
            of_kind(
                &mut self.tls,
                &objects.tls_routes,
                wanted(RouteKind::Tls),
                tls,
            ),
            of_kind(
                &mut self.tcp,
                &objects.tcp_routes,
                wanted(RouteKind::Tcp),
                tcp,
            ),
            of_kind(
                &mut self.udp,
                &objects.udp_routes,
                wanted(RouteKind::Udp),
                udp,
            ),
        ];
        let all = all.iter().flatten();
        all.filter_map(|made| made.route.clone()).collect()
    }
}

fn of_kind<T: RouteObject, O>(
    cache: &mut KindCache<T, O>,
    routes: &[Arc<T>],
    (kind, wanted, resolver): (RouteKind, RouteFilter<'_>, &Resolver),
    make: impl Fn(&Arc<T>) -> CachedRoute<O>,
) -> Vec<Arc<CachedRoute<O>>> {
    let wanted = |of: &&Arc<T>| wanted(kind, of.parent_refs(), &of.meta().namespace);
    cache.map_valid(
        routes.iter().filter(wanted),
        resolver.shared_inputs(),
        |made| resolver.lookups_hold(&made.lookups),
        |of| Arc::new(make(of)),
    )
}

/// Translates each rule separately, so that an unreadable rule does not affect the others.
fn request_rules<T>(
    id: &RouteId,
    specs: &[Lenient<T>],
    resolver: &Resolver,
    report: &mut Report,
    rule: impl Fn(&RouteId, &T, &RuleContext<'_>, &mut Report) -> CompiledRule,
) -> Vec<CompiledRule> {
    let rules = (0..).zip(specs).map(|(index, spec)| {
        let context = RuleContext {
            route: id,
            rule: index,
            resolver,
        };
        match spec.as_ref() {
            Ok(spec) => rule(id, spec, &context, report),
            Err(why) => http::unreadable(id, index, why, report),
        }
    });
    rules.collect()
}
