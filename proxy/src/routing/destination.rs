//! Destinations as the request path uses them: routes compiled, clusters and metrics at hand.
//!
//! A connection holds an `Arc<WatchedDestination>`; each request loads it once and sees one version of its configuration throughout.
//! What is here decides nothing: matching is in `weft-ir`, balancing in `upstream`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use weft_ir::{
    Backend, ConnectionRule, Filter, Protocol, RouteId, Routing, Rule, ServicePort, ServiceRules,
    TlsRule, WeightedBackend,
};

use crate::telemetry::requests::{Direction, RequestMetrics, RequestSeries};
use crate::upstream::{Cluster, balance};

/// One watched destination, kept up to date for as long as it is held.
pub struct WatchedDestination {
    pub address: SocketAddr,
    current: ArcSwap<Resolved>,
    /// Seconds on the store's clock.
    last_used: AtomicU64,
}

impl WatchedDestination {
    pub fn new(address: SocketAddr, resolved: Resolved, now: u64) -> Self {
        Self {
            address,
            current: ArcSwap::from_pointee(resolved),
            last_used: AtomicU64::new(now),
        }
    }

    /// What is at the address now. A request calls this once.
    pub fn load(&self) -> Guard<Arc<Resolved>> {
        self.current.load()
    }

    pub(crate) fn store(&self, resolved: Resolved) {
        self.current.store(Arc::new(resolved));
    }

    pub(crate) fn touch(&self, now: u64) {
        self.last_used.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }
}

/// What is at an address.
#[allow(
    clippy::large_enum_variant,
    reason = "made once for each change, and shared from then on"
)]
pub enum Resolved {
    Service(ResolvedService),
    /// A pod addressed directly: one endpoint, never routed.
    Pod(Arc<Cluster>),
    /// No Service and no pod of the cluster: passed through.
    Unknown,
}

pub struct ResolvedService {
    pub id: ServicePort,
    pub protocol: Protocol,
    pub routing: ResolvedRouting,
}

pub enum ResolvedRouting {
    /// No route is attached.
    Direct(ResolvedRule),
    /// A request that no rule takes is answered with 404. With the Service's own endpoints, for what is not HTTP.
    Http(Routes, Box<ResolvedRule>),
    /// A request that no rule takes is answered with UNIMPLEMENTED. With the Service's own endpoints.
    Grpc(Routes, Box<ResolvedRule>),
    /// A connection that no rule takes is closed.
    Tls(TlsRoutes),
    /// Every connection is one of bytes.
    Tcp(ResolvedRule),
}

pub struct Routes {
    pub table: weft_ir::RouteTable,
    /// In the places of `table.rules()`; shared between the hosts of a port.
    pub rules: Vec<Arc<ResolvedRule>>,
    /// Counts the requests that no rule takes.
    pub unmatched: Arc<RequestMetrics>,
}

pub struct TlsRoutes {
    pub table: Vec<TlsRule>,
    /// In the places of `table`.
    pub rules: Vec<ResolvedRule>,
    /// Counts the connections that no rule takes.
    pub unmatched: Arc<RequestMetrics>,
}

pub struct ResolvedRule {
    pub backends: Vec<ResolvedBackend>,
    /// Sum of the weights of `backends`; 0: no backend takes any request.
    pub total_weight: u64,
    /// Counts the requests that end before a backend is chosen (redirects, failures).
    pub metrics: Arc<RequestMetrics>,
    pub mirrors: Vec<ResolvedMirror>,
}

/// Where a copy of `numerator` in `denominator` requests goes.
pub struct ResolvedMirror {
    /// Of the route that asks for copies.
    pub namespace: Arc<str>,
    pub cluster: Arc<Cluster>,
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
}

pub struct ResolvedBackend {
    pub weight: u32,
    /// `Err`: its share of requests is answered with 500 and this reason.
    pub target: Result<Arc<Cluster>, Arc<str>>,
    pub filters: Vec<Filter>,
    /// Counts the requests of this backend of this rule.
    pub metrics: Arc<RequestMetrics>,
    pub mirrors: Vec<ResolvedMirror>,
    /// For requests: where they go on, in the place of `target`.
    pub service: Option<Arc<ComposedService>>,
}

/// A Service whose own routes are applied to what a gateway's rules send to it.
pub struct ComposedService {
    pub id: ServicePort,
    /// Their backends are endpoints.
    pub routes: Routes,
}

impl Routes {
    /// Whether any rule is of the route and sends requests again, also one of a Service that rules send to.
    pub fn retries_route(&self, route: &RouteId) -> bool {
        let rules = self.table.rules().iter();
        let mut composed = self
            .rules
            .iter()
            .flat_map(|rule| &rule.backends)
            .filter_map(|backend| backend.service.as_deref());
        rules
            .filter(|rule| rule.retry.is_some())
            .any(|rule| rule.route == *route)
            || composed.any(|service| service.routes.retries_route(route))
    }
}

impl Resolved {
    /// Whether requests are sent again for the route.
    pub fn retries_route(&self, route: &RouteId) -> bool {
        let Self::Service(service) = self else {
            return false;
        };
        match &service.routing {
            ResolvedRouting::Http(routes, _) | ResolvedRouting::Grpc(routes, _) => {
                routes.retries_route(route)
            }
            ResolvedRouting::Direct(_) | ResolvedRouting::Tls(_) | ResolvedRouting::Tcp(_) => false,
        }
    }

    /// Whether any request may be sent to the cluster.
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        match self {
            Self::Service(service) => service.routing.refers_to(cluster),
            Self::Pod(_) | Self::Unknown => false,
        }
    }
}

impl ResolvedRule {
    /// Returns a backend drawn by weight; `None` if no backend has one.
    pub fn pick_backend(&self) -> Option<&ResolvedBackend> {
        if let [only] = &self.backends[..] {
            return (only.weight > 0).then_some(only);
        }
        let weights = self.backends.iter().map(|backend| backend.weight);
        let place = balance::weighted(self.total_weight, &mut fastrand::Rng::new(), weights)?;
        self.backends.get(place)
    }

    /// Whether any request may be sent to the cluster.
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        let is = |target: &Arc<Cluster>| Arc::ptr_eq(target, cluster);
        let any = |mirrors: &[ResolvedMirror]| mirrors.iter().any(|mirror| is(&mirror.cluster));
        let composed = |of: &ComposedService| of.routes.refers_to(cluster);
        any(&self.mirrors)
            || self.backends.iter().any(|of| {
                of.target.as_ref().is_ok_and(is)
                    || any(&of.mirrors)
                    || of.service.as_deref().is_some_and(composed)
            })
    }
}

impl ResolvedRouting {
    fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        match self {
            Self::Direct(rule) | Self::Tcp(rule) => rule.refers_to(cluster),
            Self::Http(routes, own) | Self::Grpc(routes, own) => {
                routes.refers_to(cluster) || own.refers_to(cluster)
            }
            Self::Tls(routes) => routes.rules.iter().any(|rule| rule.refers_to(cluster)),
        }
    }
}

impl Routes {
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        self.rules.iter().any(|rule| rule.refers_to(cluster))
    }
}

/// What resolving needs besides the resource itself.
pub(crate) struct Resolver<'a> {
    pub(crate) cluster: &'a mut dyn FnMut(&ServicePort) -> Arc<Cluster>,
    pub(crate) series: &'a RequestSeries,
    /// Under which the requests are counted.
    pub(crate) direction: Direction,
    /// Backends whose own routes are applied.
    pub(crate) services: HashMap<ServicePort, Arc<ComposedService>>,
    /// Rules that are resolved already, by address: hosts that share a rule share what it is resolved to. Of one
    /// resource, which holds the rules while it is resolved.
    pub(crate) resolved: HashMap<*const Rule, Arc<ResolvedRule>>,
}

impl Resolver<'_> {
    pub(crate) fn service(&mut self, service: &weft_ir::Service) -> ResolvedService {
        let routing = match &service.routing {
            Routing::Direct(backends) => {
                ResolvedRouting::Direct(self.rule(&RuleNames::default(), &[], backends))
            }
            Routing::Http(rules) => {
                ResolvedRouting::Http(self.routes(rules), self.own_endpoints(&service.id))
            }
            Routing::Grpc(rules) => {
                ResolvedRouting::Grpc(self.routes(rules), self.own_endpoints(&service.id))
            }
            Routing::Tls(rules) => ResolvedRouting::Tls(self.tls_routes(rules)),
            Routing::Tcp(rule) => ResolvedRouting::Tcp(self.connection_rule(rule)),
        };
        ResolvedService {
            id: service.id.clone(),
            protocol: service.protocol,
            routing,
        }
    }

    /// Has backends that are one of these lead on by its rules from now on; theirs lead to endpoints.
    pub(crate) fn compose(&mut self, services: &[Arc<ServiceRules>]) {
        let mut composed = HashMap::with_capacity(services.len());
        for service in services {
            let ServiceRules { id, rules } = &**service;
            let of = ComposedService {
                id: id.clone(),
                routes: self.routes(rules),
            };
            composed.insert(id.clone(), Arc::new(of));
        }
        self.services = composed;
        self.resolved.clear();
    }

    /// The Service's own endpoints.
    fn own_endpoints(&mut self, id: &ServicePort) -> Box<ResolvedRule> {
        let own = WeightedBackend {
            weight: 1,
            backend: Backend::Service(id.clone()),
            filters: Vec::new(),
        };
        Box::new(self.rule(&RuleNames::default(), &[], &[own]))
    }

    pub(crate) fn tls_routes(&mut self, rules: &[TlsRule]) -> TlsRoutes {
        TlsRoutes {
            rules: rules
                .iter()
                .map(|of| self.connection_rule(&of.rule))
                .collect(),
            table: rules.to_vec(),
            unmatched: self.unmatched(),
        }
    }

    /// Counts what no rule takes.
    pub(crate) fn unmatched(&self) -> Arc<RequestMetrics> {
        self.series.get(self.direction, "", "", "")
    }

    pub(crate) fn connection_rule(&mut self, of: &ConnectionRule) -> ResolvedRule {
        let names = RuleNames::of(&of.route, of.name.as_deref(), of.index);
        self.rule(&names, &[], &of.backends)
    }

    pub(crate) fn routes(&mut self, rules: &[Arc<Rule>]) -> Routes {
        let resolved = rules.iter().map(|rule| {
            if let Some(known) = self.resolved.get(&Arc::as_ptr(rule)) {
                return Arc::clone(known);
            }
            let names = RuleNames::of(&rule.route, rule.name.as_deref(), rule.index);
            let resolved = Arc::new(self.rule(&names, &rule.filters, &rule.backends));
            self.resolved
                .insert(Arc::as_ptr(rule), Arc::clone(&resolved));
            resolved
        });
        Routes {
            rules: resolved.collect(),
            table: weft_ir::RouteTable::new(rules.to_vec()),
            unmatched: self.unmatched(),
        }
    }

    fn rule(
        &mut self,
        names: &RuleNames,
        filters: &[Filter],
        backends: &[WeightedBackend],
    ) -> ResolvedRule {
        let backends: Vec<_> = backends
            .iter()
            .map(|backend| self.backend(names, backend))
            .collect();
        ResolvedRule {
            total_weight: backends.iter().map(|b| u64::from(b.weight)).sum(),
            backends,
            metrics: self
                .series
                .get(self.direction, &names.route, &names.rule, ""),
            mirrors: self.mirrors(names, filters),
        }
    }

    fn backend(&mut self, names: &RuleNames, backend: &WeightedBackend) -> ResolvedBackend {
        let (target, name, service) = match &backend.backend {
            Backend::Service(id) => {
                let service = self.services.get(id).cloned();
                (Ok((self.cluster)(id)), id.to_string(), service)
            }
            Backend::Invalid(reason) => (Err(reason.clone()), "invalid".to_owned(), None),
        };
        ResolvedBackend {
            weight: backend.weight,
            target,
            filters: backend.filters.clone(),
            metrics: self
                .series
                .get(self.direction, &names.route, &names.rule, &name),
            mirrors: self.mirrors(names, &backend.filters),
            service,
        }
    }

    fn mirrors(&mut self, names: &RuleNames, filters: &[Filter]) -> Vec<ResolvedMirror> {
        let mut mirrors = Vec::new();
        for filter in filters {
            if let Filter::Mirror(mirror) = filter {
                mirrors.push(ResolvedMirror {
                    namespace: names.namespace.clone(),
                    cluster: (self.cluster)(&mirror.to),
                    numerator: mirror.numerator,
                    denominator: mirror.denominator,
                });
            }
        }
        mirrors
    }
}

/// As metrics and logs call a rule; all empty for a Service's own endpoints.
#[derive(Default)]
struct RuleNames {
    namespace: Arc<str>,
    route: String,
    rule: String,
}

impl RuleNames {
    fn of(route: &RouteId, name: Option<&str>, index: u32) -> Self {
        Self {
            namespace: route.namespace.clone(),
            route: route.to_string(),
            rule: name.map_or_else(|| index.to_string(), str::to_owned),
        }
    }
}
