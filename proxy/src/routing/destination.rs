//! Destinations as requests use them: routes compiled, clusters and metrics at hand.
//!
//! A connection holds an `Arc<WatchedDestination>`; each request loads it once and sees one version
//! of its configuration throughout. Nothing is decided here: matching is in `weft-ir`, balancing in
//! `upstream`.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use weft_ir::{Filter, Fraction, Protocol, RouteId, RouteSection, ServicePort, TlsRule};

use super::external_auth::ResolvedAuth;
use crate::clock::{AtomicTimestamp, Timestamp};
use crate::telemetry::requests::RequestMetrics;
use crate::upstream::{Cluster, balance};

/// A destination that the proxy watches, kept up to date for as long as it is held.
pub struct WatchedDestination {
    pub address: SocketAddr,
    current: ArcSwap<Resolved>,
    last_used: AtomicTimestamp,
}

impl WatchedDestination {
    pub fn new(address: SocketAddr, resolved: Resolved, now: Timestamp) -> Self {
        Self {
            address,
            current: ArcSwap::from_pointee(resolved),
            last_used: AtomicTimestamp::new(now),
        }
    }

    /// Returns what is at the address now. A request calls this once.
    pub fn load(&self) -> Guard<Arc<Resolved>> {
        self.current.load()
    }

    pub(crate) fn store(&self, resolved: Resolved) {
        self.current.store(Arc::new(resolved));
    }

    pub(crate) fn touch(&self, now: Timestamp) {
        self.last_used.store(now);
    }

    pub(crate) fn last_used(&self) -> Timestamp {
        self.last_used.load()
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
    /// No Service and no pod of the cluster: connections are passed through.
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
    /// A request without a match is answered with 404. With the Service's own endpoints, for what
    /// is not HTTP.
    Http(Routes, Box<ResolvedRule>),
    /// A request without a match is answered with UNIMPLEMENTED. With the Service's own endpoints.
    Grpc(Routes, Box<ResolvedRule>),
    /// A connection without a match is closed.
    Tls(TlsRoutes),
    /// Every connection is forwarded as bytes.
    Tcp(ResolvedRule),
}

pub struct Routes {
    /// What a rule is resolved to is shared between the hosts of a port.
    pub table: weft_ir::RouteTable<Arc<ResolvedRule>>,
    /// Counts the requests without a match.
    pub unmatched: Arc<RequestMetrics>,
}

pub struct TlsRoutes {
    pub rules: Vec<(TlsRule, ResolvedRule)>,
    /// Counts the connections without a match.
    pub unmatched: Arc<RequestMetrics>,
}

pub struct ResolvedRule {
    pub backends: Vec<ResolvedBackend>,
    /// The sum of the weights of `backends`; 0 if no backend takes any request.
    pub total_weight: u64,
    /// Counts the requests that end before a backend is chosen (redirects, failures).
    pub metrics: Arc<RequestMetrics>,
    pub mirrors: Vec<ResolvedMirror>,
    pub external_auth: Option<Box<ResolvedAuth>>,
    /// Whose policies apply; `None` for a Service's own endpoints.
    pub section: Option<Arc<RouteSection>>,
}

/// Where copies of a share of the requests go.
pub struct ResolvedMirror {
    /// The namespace of the mirror's route.
    pub namespace: Arc<str>,
    pub cluster: Arc<Cluster>,
    pub fraction: Fraction,
}

pub struct ResolvedBackend {
    pub weight: u32,
    /// `Err`: its share of requests is answered with 500 and this reason.
    pub target: Result<Arc<Cluster>, Arc<str>>,
    pub filters: Vec<Filter>,
    /// Counts the requests of this backend of this rule.
    pub metrics: Arc<RequestMetrics>,
    pub mirrors: Vec<ResolvedMirror>,
    pub external_auth: Option<Box<ResolvedAuth>>,
    /// The Service whose own routes apply to requests, in place of `target`.
    pub service: Option<Arc<ComposedService>>,
}

/// A Service whose own routes are applied to what a gateway's rules send to it.
pub struct ComposedService {
    pub id: ServicePort,
    /// Their backends lead to endpoints.
    pub routes: Routes,
}

impl Routes {
    /// Returns true if any rule is of the route and has retries, also one of a Service that rules
    /// lead to.
    pub fn retries_route(&self, route: &RouteId) -> bool {
        let composed = |resolved: &ResolvedRule| {
            let mut services = resolved
                .backends
                .iter()
                .filter_map(|of| of.service.as_deref());
            services.any(|service| service.routes.retries_route(route))
        };
        self.table.rules().any(|(rule, resolved)| {
            let retries = rule.retry.as_ref().is_some_and(|retry| retry.attempts > 0);
            (retries && rule.route == *route) || composed(resolved)
        })
    }
}

impl Resolved {
    /// Returns true if the route has retries.
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

    /// Returns true if any request may be sent to the cluster.
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

    /// Returns true if any request may be sent to the cluster.
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        let is = |target: &Arc<Cluster>| Arc::ptr_eq(target, cluster);
        let any = |mirrors: &[ResolvedMirror]| mirrors.iter().any(|mirror| is(&mirror.cluster));
        let composed = |of: &ComposedService| of.routes.refers_to(cluster);
        let checks = |of: &Option<Box<ResolvedAuth>>| {
            of.as_ref().is_some_and(|auth| auth.refers_to(cluster))
        };
        any(&self.mirrors)
            || checks(&self.external_auth)
            || self.backends.iter().any(|of| {
                of.target.as_ref().is_ok_and(is)
                    || any(&of.mirrors)
                    || checks(&of.external_auth)
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
            Self::Tls(routes) => routes.refers_to(cluster),
        }
    }
}

impl Routes {
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        let mut rules = self.table.rules();
        rules.any(|(_, resolved)| resolved.refers_to(cluster))
    }
}

impl TlsRoutes {
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|(_, resolved)| resolved.refers_to(cluster))
    }
}
