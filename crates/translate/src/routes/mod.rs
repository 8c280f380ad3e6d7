//! Routes as rules, and what is wrong with them: the same for every parent that a route has.

mod backends;
mod connections;
mod filters;
mod grpc;
mod http;
mod patterns;
mod report;
mod resolver;
mod source;
mod values;

use std::sync::Arc;

use weft_ir::{ConnectionRule, RouteId, RouteKind, Rule, TlsRule};

use crate::Objects;
use crate::gateways::RouteHosts;
use crate::limits::Size;
use crate::memo::PerObject;
use crate::objects::{GrpcRoute, HttpRoute, Lenient, Meta, ParentRef, TcpRoute, TlsRoute};

use backends::Context;
pub(crate) use connections::CompiledConnections;
pub(crate) use report::{Fault, Report};
use resolver::{Common, Seen};
pub(crate) use resolver::{GatewayRules, Resolver};
pub(crate) use source::Source;
pub(crate) use values::host_patterns;

/// A route, translated.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) id: RouteId,
    pub(crate) source: Arc<dyn Source>,
    /// What it means by its hostnames at Gateways.
    pub(crate) hosts: RouteHosts,
    pub(crate) rules: Rules,
    /// What its rules take of the ports where it is in force.
    pub(crate) size: Size,
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

    /// Instead of rules that are too large: requests that no other rule takes are answered with 500, connections are
    /// closed.
    fn refuse(&mut self, id: &RouteId, why: &str) {
        match self {
            Self::Requests(rules) => *rules = vec![http::refused(id, 0, why)],
            Self::Tls(rule) => *rule = None,
            Self::Bytes(of) => {
                of.rule.backends.clear();
                of.works = false;
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// The same `Arc` wherever the route is in force.
    pub(crate) rule: Arc<Rule>,
    /// Some request can meet it as it was meant.
    pub(crate) works: bool,
}

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

impl Route {
    /// `None` when the object is not even a map, so that it has no `rules`.
    fn new<T: Source + 'static>(
        kind: RouteKind,
        of: &Arc<T>,
        resolver: &Resolver,
        rules: impl FnOnce(&RouteId, &mut Report) -> Option<Rules>,
    ) -> Option<Self> {
        let id = route_id(kind, of.meta());
        let mut report = Report::default();
        let mut rules = rules(&id, &mut report)?;
        let mut size = Size::of(&rules);
        if let Some(fault) = report.patterns.too_large().or_else(|| size.too_large()) {
            rules.refuse(&id, &fault.text);
            size = Size::of(&rules);
            report.faults = vec![(0, fault)];
        }
        let hosts = match &rules {
            // The rule has been read with the names, and their faults told.
            Rules::Tls(_) => hosts(of.hostnames(), resolver, &mut Report::default()),
            Rules::Requests(_) | Rules::Bytes(_) => hosts(of.hostnames(), resolver, &mut report),
        };
        Some(Self {
            id,
            source: Arc::clone(of) as _,
            hosts,
            rules,
            size,
            report,
        })
    }

    /// The order that decides ties between routes (specification of `HTTPRouteRule.matches`).
    pub(crate) fn tie_order(&self) -> (String, String) {
        let age = self.source.meta().creation_timestamp.clone();
        (age, format!("{}/{}", self.id.namespace, self.id.name))
    }
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

/// Under Services they mean nothing. What cannot be read of them becomes the route's fault.
fn hosts(names: &[Lenient<String>], resolver: &Resolver, report: &mut Report) -> RouteHosts {
    if resolver.gateway.is_none() || names.is_empty() {
        return RouteHosts::Any;
    }
    RouteHosts::These(host_patterns(names, report))
}

pub(crate) fn route_id(kind: RouteKind, meta: &Meta) -> RouteId {
    RouteId {
        kind,
        namespace: Arc::from(&*meta.namespace),
        name: Arc::from(&*meta.name),
    }
}
