//! A cluster: the endpoints of one Service port, or one pod. Its endpoints change under traffic.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_ir::{Choice, EndpointSet, Locality, Protocol};

use super::budget::RetryBudget;
use super::members::{Members, PickRequest};
use super::{Endpoint, EndpointRegistry};

/// The endpoints of a Service port.
pub struct Cluster {
    /// `namespace/service:port`, or the pod's `ip:port`.
    pub name: Arc<str>,
    pub registry: Arc<EndpointRegistry>,
    members: ArcSwap<Members>,
    pub(super) budget: RetryBudget,
}

impl Cluster {
    /// Creates a cluster without endpoints.
    pub fn new(name: Arc<str>, registry: Arc<EndpointRegistry>) -> Arc<Self> {
        Arc::new(Self {
            name,
            registry,
            members: ArcSwap::from_pointee(Members::empty()),
            budget: RetryBudget::default(),
        })
    }

    /// Replaces the endpoints by those of the set. Endpoints that stay, with the same settings,
    /// keep their connections; requests in flight go on.
    pub fn update(&self, set: &EndpointSet) {
        let tls = set.tls.as_ref().map(|tls| self.registry.tls.backend(tls));
        let endpoint = |one| self.registry.endpoint(one, tls.as_ref());
        let endpoints = set.endpoints.iter().map(endpoint).collect();
        let choice = set.choice.clone();
        let locality = self.registry.locality.load();
        let members = Members::new(set.protocol, endpoints, choice, &locality);
        self.members.store(Arc::new(members));
    }

    /// As [`Cluster::update`], without preferred endpoints.
    pub fn set_endpoints(&self, protocol: Protocol, endpoints: &[weft_ir::Endpoint]) {
        let endpoint = |one| self.registry.endpoint(one, None);
        let endpoints = endpoints.iter().map(endpoint).collect();
        let members = Members::new(protocol, endpoints, Choice::default(), &Locality::default());
        self.members.store(Arc::new(members));
    }

    /// Applies the proxy's new place to which endpoints are preferred.
    pub fn relocate(&self) {
        let members = self.members.load().at(&self.registry.locality.load());
        self.members.store(Arc::new(members));
    }

    /// Takes one retry from the budget. Returns false if the budget is exhausted.
    pub fn try_spend_retry(&self) -> bool {
        let may = self.budget.spend(self.registry.now());
        if !may {
            self.registry.metrics.retry_budget_exhausted.inc();
        }
        may
    }

    /// Picks an endpoint for the client's request or connection that is not among `tried`. Returns
    /// `None` if there is no other.
    pub fn pick(&self, tried: &[SocketAddr], client: Option<IpAddr>) -> Option<Arc<Endpoint>> {
        let now = self.registry.now();
        let asked = PickRequest { now, tried, client };
        self.choose(&asked, |endpoint| {
            if endpoint.try_claim_probe(now) {
                self.registry.probe(endpoint);
            }
            endpoint.is_healthy(now)
        })
    }

    /// Picks an endpoint for the client's datagrams, without a probe: only datagrams show whether
    /// it is there.
    pub fn pick_for_datagrams(&self, client: IpAddr) -> Option<Arc<Endpoint>> {
        let now = self.registry.now();
        let asked = PickRequest {
            now,
            tried: &[],
            client: Some(client),
        };
        self.choose(&asked, |endpoint| !endpoint.is_ejected(now))
    }

    fn choose(
        &self,
        asked: &PickRequest<'_>,
        is_healthy: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let sessions = (&self.name, &self.registry.sessions);
        self.members.load().choose(asked, sessions, is_healthy)
    }

    pub fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }
}
