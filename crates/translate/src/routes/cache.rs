//! Routes of every kind, translated: those that are still the same are not translated again.

use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use super::backends::Context;
use super::compiled::{CompiledRule, Rules};
use super::object::Source;
use super::report::Report;
use super::resolver::{Common, Resolver, Seen};
use super::route::Route;
use super::{connections, grpc, http};
use crate::input::Objects;
use crate::memo::PerObject;
use crate::objects::{GrpcRoute, HttpRoute, Lenient, ParentRef, TcpRoute, TlsRoute};

/// Whether a route of this kind, with these parents, in this namespace is wanted.
pub(crate) type Wanted<'w> = &'w dyn Fn(RouteKind, &[Lenient<ParentRef>], &str) -> bool;

/// Routes as they were translated last, each with what was made of it.
#[derive(Debug)]
pub(crate) struct Memo<O> {
    http: OfKind<HttpRoute, O>,
    grpc: OfKind<GrpcRoute, O>,
    tls: OfKind<TlsRoute, O>,
    tcp: OfKind<TcpRoute, O>,
    udp: OfKind<TcpRoute, O>,
}

type OfKind<T, O> = PerObject<T, Common, Arc<Made<O>>>;

/// What was made of a route, and what was looked up for that.
#[derive(Debug)]
struct Made<O> {
    /// `None`: the object is not even a map.
    route: Option<O>,
    seen: Vec<Seen>,
}

impl<O> Default for Memo<O> {
    fn default() -> Self {
        Self {
            http: PerObject::default(),
            grpc: PerObject::default(),
            tls: PerObject::default(),
            tcp: PerObject::default(),
            udp: PerObject::default(),
        }
    }
}

impl<O: Clone> Memo<O> {
    /// The routes that are wanted, of every kind, each as `finish` makes it: from the route and `resolver` alone.
    pub(crate) fn translated(
        &mut self,
        objects: &Objects,
        resolver: &Resolver,
        wanted: Wanted<'_>,
        finish: impl Fn(Route) -> O,
    ) -> Vec<O> {
        let finish = |route: Option<Route>| Made {
            route: route.map(&finish),
            seen: resolver.seen(),
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
                Some(Rules::Bytes(connections::rule(id, specs, resolver, report)))
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

fn of_kind<T: Source, O>(
    memo: &mut OfKind<T, O>,
    routes: &[Arc<T>],
    (kind, wanted, resolver): (RouteKind, Wanted<'_>, &Resolver),
    make: impl Fn(&Arc<T>) -> Made<O>,
) -> Vec<Arc<Made<O>>> {
    let wanted = |of: &&Arc<T>| wanted(kind, of.parent_refs(), &of.meta().namespace);
    memo.map_while(
        routes.iter().filter(wanted),
        resolver.common(),
        |made| resolver.still_finds(&made.seen),
        |of| Arc::new(make(of)),
    )
}

/// Each rule by itself: one that cannot be read fails alone.
fn request_rules<T>(
    id: &RouteId,
    specs: &[Lenient<T>],
    resolver: &Resolver,
    report: &mut Report,
    rule: impl Fn(&RouteId, &T, &Context<'_>, &mut Report) -> CompiledRule,
) -> Vec<CompiledRule> {
    let rules = (0..).zip(specs).map(|(index, spec)| {
        let context = Context {
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
