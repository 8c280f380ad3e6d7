//! A cluster: the endpoints of one Service port, or one pod. Its endpoints change under traffic.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use weft_ir::{
    Choice, ClientLimits, EndpointSet, HealthChecks, Locality, Protocol, TrafficPolicy,
    ZonePreference,
};

use super::balance::Key;
use super::budget::RetryCounter;
use super::health::HealthChecker;
use super::members::{Members, PickRequest};
use super::outliers::{Outcome, TrackedEndpoint};
use super::{Endpoint, EndpointRegistry, SendError};
use crate::limits::{Admission, AtLimit, ClientLimiters, Limiter};

const NO_LIMITS: ClientLimits = ClientLimits {
    max_connections: None,
    requests: None,
};

/// A cluster may send no retry.
pub struct BudgetExhausted {
    /// What the request ends with, in place of the result at hand.
    pub instead: Option<SendError>,
}

/// The endpoints of a Service port.
pub struct Cluster {
    /// `namespace/service:port`, or the pod's `ip:port`.
    pub name: Arc<str>,
    pub registry: Arc<EndpointRegistry>,
    members: ArcSwap<Members>,
    pub(super) retries: RetryCounter,
    /// Only if it concerns requests.
    request_policy: ArcSwapOption<TrafficPolicy>,
}

impl Cluster {
    /// Creates a cluster without endpoints.
    pub fn new(name: Arc<str>, registry: Arc<EndpointRegistry>) -> Arc<Self> {
        Arc::new(Self {
            name,
            registry,
            members: ArcSwap::from_pointee(Members::empty()),
            retries: RetryCounter::default(),
            request_policy: ArcSwapOption::empty(),
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
        let policy = set.traffic.as_deref();
        let balancing = policy.and_then(|of| of.load_balancing.as_ref());
        let zones = balancing.map_or_else(ZonePreference::default, |of| of.zones);
        let choice = (choice, zones);
        let mut members = Members::new(set.protocol, endpoints, choice, &locality);
        members.limiters = self.limiters(policy);
        members.retry_budget = policy.and_then(|of| of.retry_budget).unwrap_or_default();
        let timeouts = policy.and_then(|of| of.timeouts);
        members.connect_timeout = timeouts.and_then(|of| of.connect);
        let before = self.members.load();
        let method = balancing.map(|of| &of.method);
        members = members.balancing(method, &before, self.registry.now());
        if let Some(settings) = policy.and_then(|of| of.outlier_detection.as_ref()) {
            members = members.detecting(settings, &before);
        }
        if let Some(settings) = policy.and_then(|of| of.health_checks.as_ref()) {
            let checker = self.checker(settings, &before);
            members = members.checked_by(&checker, &before);
        }
        self.members.store(Arc::new(members));
        let concerns_requests = |of: &&Arc<TrafficPolicy>| of.concerns_requests();
        let policy = set.traffic.as_ref().filter(concerns_requests);
        self.request_policy.store(policy.cloned());
    }

    /// Returns the policy for what the rules of a request do not say; `None` if there is none.
    pub fn request_policy(&self) -> Option<Arc<TrafficPolicy>> {
        self.request_policy.load_full()
    }

    /// Returns true if the policy retries requests.
    pub fn retries_requests(&self) -> bool {
        let policy = self.request_policy.load();
        let retries = policy.as_ref().and_then(|of| of.retries.as_ref());
        retries.is_some_and(|of| of.retry.attempts > 0)
    }

    /// Returns what checks by these settings: that of the members before, if they are the same.
    fn checker(&self, settings: &HealthChecks, before: &Members) -> Arc<HealthChecker> {
        let known = before.health.as_ref().map(|health| &health.checker);
        match known.filter(|checker| checker.settings() == settings) {
            Some(checker) => Arc::clone(checker),
            None => HealthChecker::new(settings, &self.name, &self.registry),
        }
    }

    /// As [`Cluster::update`], without preferred endpoints.
    pub fn set_endpoints(&self, protocol: Protocol, endpoints: &[weft_ir::Endpoint]) {
        let endpoint = |one| self.registry.endpoint(one, None);
        let endpoints = endpoints.iter().map(endpoint).collect();
        let choice = (Choice::default(), ZonePreference::default());
        let mut members = Members::new(protocol, endpoints, choice, &Locality::default());
        members.limiters = self.limiters(None);
        self.members.store(Arc::new(members));
    }

    /// Puts the limits of a policy in force.
    fn limiters(&self, policy: Option<&TrafficPolicy>) -> ClientLimiters {
        let limits = policy.and_then(|of| of.limits.as_ref());
        let limits = limits.map_or(&NO_LIMITS, |of| &of.client);
        let metrics = &self.registry.metrics.limits;
        self.members.load().limiters.changed(limits, metrics)
    }

    /// Returns the place of a connection of bytes, if connections are limited. Errors if there are
    /// too many.
    pub fn admit_connection(&self) -> Result<Option<Admission>, AtLimit> {
        let members = self.members.load();
        let limiter = members.limiters.connections.as_ref();
        limiter.map(Limiter::try_enter).transpose()
    }

    /// Waits for the place of a request.
    pub(super) async fn admit_request(
        &self,
        limiter: Arc<Limiter>,
    ) -> Result<Admission, SendError> {
        limiter.enter().await.map_err(|at| {
            self.registry.metrics.shed(at.error_type());
            SendError::Limited(at)
        })
    }

    /// Applies the proxy's new place to which endpoints are preferred.
    pub fn relocate(&self) {
        let members = self.members.load().at(&self.registry.locality.load());
        self.members.store(Arc::new(members));
    }

    /// Takes one retry from the budget. Errors if the budget is exhausted.
    pub fn spend_retry(&self) -> Result<(), BudgetExhausted> {
        let budget = self.members.load().retry_budget;
        if self.retries.spend(budget, self.registry.now()) {
            return Ok(());
        }
        self.registry.metrics.retry_budget_exhausted.inc();
        let instead = budget.answers_503;
        let instead = instead.then(|| SendError::RetryBudget(Arc::clone(&self.name)));
        Err(BudgetExhausted { instead })
    }

    /// Picks an endpoint for the client's request or connection that is not among `tried`. Returns
    /// `None` if there is no other.
    pub fn pick(&self, tried: &[SocketAddr], client: Option<IpAddr>) -> Option<Arc<Endpoint>> {
        let members = self.members.load();
        if let Some(health) = &members.health {
            health.checker.connection(self.registry.now());
        }
        let key = client.and_then(|client| members.key_of_connection(client));
        let place = self.pick_place(&members, tried, client, key)?;
        members.endpoints.get(place).cloned()
    }

    /// As [`Cluster::pick`], for a request with this key, and whose outcome counts.
    pub(super) fn pick_tracked(
        &self,
        tried: &[SocketAddr],
        client: Option<IpAddr>,
        key: Option<Key>,
    ) -> Option<(Arc<Endpoint>, Option<TrackedEndpoint>)> {
        let members = self.members.load();
        if let Some(health) = &members.health {
            health.checker.request(self.registry.now());
        }
        let place = self.pick_place(&members, tried, client, key)?;
        let endpoint = members.endpoints.get(place)?.clone();
        Some((endpoint, self.tracked(&members, place)))
    }

    fn pick_place(
        &self,
        members: &Members,
        tried: &[SocketAddr],
        client: Option<IpAddr>,
        key: Option<Key>,
    ) -> Option<usize> {
        let now = self.registry.now();
        let asked = PickRequest {
            now,
            tried,
            client,
            key,
        };
        self.choose(members, &asked, |endpoint| {
            if endpoint.try_claim_probe(now) {
                self.registry.probe(endpoint);
            }
            endpoint.is_healthy(now)
        })
    }

    fn tracked(&self, members: &Members, place: usize) -> Option<TrackedEndpoint> {
        Some(TrackedEndpoint {
            detector: Arc::clone(members.outliers.as_ref()?),
            registry: Arc::clone(&self.registry),
            place,
        })
    }

    /// Records that an endpoint did not answer in time.
    pub fn timed_out(&self, address: SocketAddr) {
        let members = self.members.load();
        if members.outliers.is_none() {
            return;
        }
        let mut endpoints = members.endpoints.iter();
        let place = endpoints.position(|endpoint| endpoint.address == address);
        if let Some(tracked) = place.and_then(|place| self.tracked(&members, place)) {
            tracked.record(Outcome::GatewayError);
        }
    }

    /// Picks an endpoint for the client's datagrams, without a probe: only datagrams show whether
    /// it is there.
    pub fn pick_for_datagrams(&self, client: IpAddr) -> Option<Arc<Endpoint>> {
        let now = self.registry.now();
        let asked = PickRequest {
            now,
            tried: &[],
            client: Some(client),
            key: None,
        };
        let members = self.members.load();
        let place = self.choose(&members, &asked, |endpoint| !endpoint.is_ejected(now))?;
        members.endpoints.get(place).cloned()
    }

    fn choose(
        &self,
        members: &Members,
        asked: &PickRequest<'_>,
        is_healthy: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<usize> {
        let sessions = (&self.name, &self.registry.sessions);
        let panics = &self.registry.metrics.outliers.panics;
        members.choose(asked, sessions, is_healthy, || {
            panics.inc();
        })
    }

    pub fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }
}
