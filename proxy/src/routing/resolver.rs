//! Resources compiled to what requests use: rules with their clusters, metrics and mirrors.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weft_ir::{
    Backend, ConnectionRule, ExternalAuth, Filter, GatewayPort, HostMap, RouteId, RouteSection,
    Routing, Rule, ServicePort, ServiceRules, Serving, TlsListener, TlsRule, TlsServing,
    VirtualHost, WeightedBackend,
};

use super::destination::{
    ComposedService, ResolvedBackend, ResolvedMirror, ResolvedRouting, ResolvedRule,
    ResolvedService, Routes, TlsRoutes,
};
use super::external_auth::ResolvedAuth;
use super::gateway_port::{
    ResolvedListener, ResolvedPort, ResolvedServing, ResolvedStream, ResolvedTlsListener,
    ResolvedTlsServing,
};
use crate::telemetry::labels::{BackendRef, Direction, Parent, RequestLabels, Route};
use crate::telemetry::requests::RequestMetrics;
use crate::telemetry::series::RequestSeries;
use crate::tls::termination::Termination;
use crate::upstream::Cluster;

/// What resolving needs besides the resource itself.
pub(crate) struct Resolver<'a> {
    pub(crate) cluster: &'a mut dyn FnMut(&ServicePort) -> Arc<Cluster>,
    pub(crate) series: &'a RequestSeries,
    /// The direction that requests are counted under.
    pub(crate) direction: Direction,
    /// What the rules that are resolved now are attached to.
    pub(crate) parent: Parent,
    /// Services whose own routes apply to requests of backends.
    pub(crate) services: HashMap<ServicePort, Arc<ComposedService>>,
    /// Rules that are resolved already, by address: hosts that share a rule share its resolved
    /// form. Of one resource, which holds the rules meanwhile.
    pub(crate) resolved: HashMap<*const Rule, Arc<ResolvedRule>>,
}

impl Resolver<'_> {
    pub(crate) fn service(&mut self, service: &weft_ir::Service) -> ResolvedService {
        self.parent = Parent::Service(service.id.clone());
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

    /// Applies these Services' own routes to backends from now on; their backends lead to
    /// endpoints.
    pub(crate) fn compose(&mut self, services: &[Arc<ServiceRules>]) {
        let mut composed = HashMap::with_capacity(services.len());
        for service in services {
            let ServiceRules { id, rules } = &**service;
            let own = Parent::Service(id.clone());
            let gateway = std::mem::replace(&mut self.parent, own);
            let of = ComposedService {
                id: id.clone(),
                routes: self.routes(rules),
            };
            self.parent = gateway;
            composed.insert(id.clone(), Arc::new(of));
        }
        self.services = composed;
        self.resolved.clear();
    }

    /// Returns a rule for the Service's own endpoints.
    fn own_endpoints(&mut self, id: &ServicePort) -> Box<ResolvedRule> {
        let own = WeightedBackend {
            weight: 1,
            backend: Backend::Service(id.clone()),
            filters: Vec::new(),
        };
        Box::new(self.rule(&RuleNames::default(), &[], &[own]))
    }

    pub(crate) fn tls_routes(&mut self, rules: &[TlsRule]) -> TlsRoutes {
        let resolved = rules
            .iter()
            .map(|of| (of.clone(), self.connection_rule(&of.rule)));
        TlsRoutes {
            rules: resolved.collect(),
            unmatched: self.unmatched(),
        }
    }

    /// Returns the metrics of what has no match.
    pub(crate) fn unmatched(&self) -> Arc<RequestMetrics> {
        self.metrics(Route::None, BackendRef::None)
    }

    fn metrics(&self, route: Route, backend: BackendRef) -> Arc<RequestMetrics> {
        self.series.get(RequestLabels {
            direction: self.direction,
            parent: self.parent.clone(),
            route,
            backend,
        })
    }

    pub(crate) fn connection_rule(&mut self, of: &ConnectionRule) -> ResolvedRule {
        let names = RuleNames::of(&of.route, of.name.as_deref(), of.index);
        self.rule(&names, &[], &of.backends)
    }

    pub(crate) fn routes(&mut self, rules: &[Arc<Rule>]) -> Routes {
        let resolved = rules.iter().map(|rule| {
            if let Some(known) = self.resolved.get(&Arc::as_ptr(rule)) {
                return (Arc::clone(rule), Arc::clone(known));
            }
            let names = RuleNames::of(&rule.route, rule.name.as_deref(), rule.index);
            let resolved = Arc::new(self.rule(&names, &rule.filters, &rule.backends));
            self.resolved
                .insert(Arc::as_ptr(rule), Arc::clone(&resolved));
            (Arc::clone(rule), resolved)
        });
        Routes {
            table: weft_ir::RouteTable::new(resolved.collect()),
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
            metrics: self.metrics(names.route.clone(), BackendRef::None),
            mirrors: self.mirrors(names, filters),
            external_auth: self.external_auth(filters),
            section: names.section.clone(),
        }
    }

    fn backend(&mut self, names: &RuleNames, backend: &WeightedBackend) -> ResolvedBackend {
        let (target, name, service) = match &backend.backend {
            Backend::Service(id) => {
                let service = self.services.get(id).cloned();
                (
                    Ok((self.cluster)(id)),
                    BackendRef::Service(id.clone()),
                    service,
                )
            }
            Backend::Invalid(reason) => (Err(reason.clone()), BackendRef::Invalid, None),
        };
        ResolvedBackend {
            weight: backend.weight,
            target,
            filters: backend.filters.clone(),
            metrics: self.metrics(names.route.clone(), name),
            mirrors: self.mirrors(names, &backend.filters),
            external_auth: self.external_auth(&backend.filters),
            service,
        }
    }

    /// A list of filters has at most one of this type.
    fn external_auth(&mut self, filters: &[Filter]) -> Option<Box<ResolvedAuth>> {
        let mut places = filters.iter().enumerate();
        let (position, config) = places.find_map(|(position, filter)| match filter {
            Filter::ExternalAuth(config) => Some((position, config)),
            _ => None,
        })?;
        Some(Box::new(self.auth(position, config)))
    }

    fn auth(&mut self, position: usize, config: &Arc<ExternalAuth>) -> ResolvedAuth {
        ResolvedAuth {
            position,
            config: config.clone(),
            server: match &config.server {
                Ok(id) => Ok((self.cluster)(id)),
                Err(reason) => Err(reason.clone()),
            },
        }
    }

    fn mirrors(&mut self, names: &RuleNames, filters: &[Filter]) -> Vec<ResolvedMirror> {
        let mut mirrors = Vec::new();
        for filter in filters {
            if let Filter::Mirror(mirror) = filter {
                mirrors.push(ResolvedMirror {
                    namespace: names.namespace.clone(),
                    cluster: (self.cluster)(&mirror.to),
                    fraction: mirror.fraction,
                });
            }
        }
        mirrors
    }
}

/// The names of a rule in metrics and logs; empty for a Service's own endpoints.
#[derive(Default)]
struct RuleNames {
    namespace: Arc<str>,
    route: Route,
    section: Option<Arc<RouteSection>>,
}

impl RuleNames {
    fn of(route: &RouteId, name: Option<&str>, index: u32) -> Self {
        Self {
            namespace: route.namespace.clone(),
            route: Route::Rule(
                route.clone(),
                name.map_or_else(|| index.to_string().into(), Arc::from),
            ),
            section: Some(Arc::new(RouteSection {
                route: route.clone(),
                rule: name.map(str::to_owned),
            })),
        }
    }
}

impl Resolver<'_> {
    /// Resolves a port. `before`: the version in force, of which certificates and connections are
    /// kept. Listeners whose certificates cannot be used are left without, and named in `faults`.
    pub(crate) fn port(
        &mut self,
        port: &GatewayPort,
        before: Option<&ResolvedPort>,
        faults: &mut Vec<String>,
    ) -> ResolvedPort {
        self.compose(&port.services);
        let before_of_tls = before.and_then(|before| match &before.serving {
            ResolvedServing::Tls(listeners) => Some(listeners),
            _ => None,
        });
        let serving = match &port.serving {
            Serving::Http(listeners) => {
                let mut map = HostMap::default();
                for listener in listeners {
                    let checks = &listener.external_auth;
                    let resolved = self.listener(&listener.name, checks, &listener.hosts);
                    map.insert(listener.hostname.clone(), resolved);
                }
                ResolvedServing::Http(map)
            }
            Serving::Tls(listeners) => {
                let mut map = HostMap::default();
                for listener in listeners {
                    let before = before_of_tls.and_then(|before| {
                        before.values().find(|known| known.name == listener.name)
                    });
                    let resolved = self.tls_listener(listener, before, faults);
                    map.insert(listener.hostname.clone(), resolved);
                }
                ResolvedServing::Tls(map)
            }
            Serving::Tcp(stream) | Serving::Udp(stream) => {
                let known = before.and_then(|before| match &before.serving {
                    ResolvedServing::Stream(before) => Some(before.rule.clone()),
                    _ => None,
                });
                let watched = known.unwrap_or_default();
                let rule = stream.rule.as_ref().map(|rule| self.connection_rule(rule));
                watched.store(rule.map(Arc::new));
                ResolvedServing::Stream(ResolvedStream {
                    name: stream.name.clone(),
                    rule: watched,
                    unmatched: self.unmatched(),
                })
            }
        };
        let closing = match before {
            Some(before) if before.serving.is_same_kind(&serving) => before.closing.clone(),
            _ => CancellationToken::new(),
        };
        ResolvedPort { serving, closing }
    }

    fn listener(
        &mut self,
        name: &Arc<str>,
        checks: &[Arc<ExternalAuth>],
        hosts: &[VirtualHost],
    ) -> ResolvedListener {
        let checks = checks.iter().enumerate();
        let checks = checks.map(|(position, config)| self.auth(position, config));
        let external_auth = checks.collect();
        let mut map = HostMap::default();
        for virtual_host in hosts {
            map.insert(virtual_host.host.clone(), self.routes(&virtual_host.rules));
        }
        ResolvedListener {
            name: name.clone(),
            external_auth,
            hosts: map,
            unmatched: self.unmatched(),
        }
    }

    fn tls_listener(
        &mut self,
        listener: &TlsListener,
        before: Option<&ResolvedTlsListener>,
        faults: &mut Vec<String>,
    ) -> ResolvedTlsListener {
        let known = before.and_then(|before| before.serving.termination());
        let mut terminate = |tls, alpn: &[&[u8]]| {
            let termination = Termination::new(tls, alpn, known);
            let words = termination.faults().iter();
            faults.extend(words.map(|fault| format!("listener {}: {fault}", listener.name)));
            termination
        };
        let serving = match &listener.serving {
            TlsServing::Http {
                tls,
                external_auth,
                hosts,
            } => {
                let termination = terminate(tls, &[b"h2", b"http/1.1"]);
                let of = self.listener(&listener.name, external_auth, hosts);
                ResolvedTlsServing::Http(termination, of)
            }
            TlsServing::Terminate { tls, rules } => {
                ResolvedTlsServing::Terminate(terminate(tls, &[]), self.tls_routes(rules))
            }
            TlsServing::Passthrough { rules } => {
                ResolvedTlsServing::Passthrough(self.tls_routes(rules))
            }
        };
        let same = before.filter(|before| {
            before.hostname == listener.hostname && before.serving.is_compatible(&serving)
        });
        ResolvedTlsListener {
            name: listener.name.clone(),
            hostname: listener.hostname.clone(),
            serving,
            closing: same.map_or_else(Arc::default, |before| before.closing.clone()),
        }
    }
}
