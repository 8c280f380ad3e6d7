//! The endpoints of a cluster at one moment, and which of them takes a request.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use weft_ir::{
    BalancingMethod, Choice, ConnectTimeout, Locality, OutlierDetection, Protocol, RetryBudget,
    ZonePreference,
};

use super::Endpoint;
use super::balance::{Balancing, ByKey, Key, RequestKey};
use super::health::{ClusterHealth, HealthChecker};
use super::outliers::OutlierDetector;
use super::sessions::{self, Sessions};
use crate::clock::Timestamp;
use crate::limits::ClientLimiters;

/// One version of a cluster.
pub struct Members {
    /// What the endpoints speak, as their Service port declares it.
    pub protocol: Protocol,
    /// Preferred endpoints, for clients at this proxy's place, come first.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The number of preferred endpoints.
    hinted: usize,
    /// The number of endpoints that are used: the preferred ones, or all.
    used: usize,
    choice: Choice,
    zones: ZonePreference,
    /// `None` without outlier detection.
    pub(super) outliers: Option<Arc<OutlierDetector>>,
    pub(super) retry_budget: RetryBudget,
    pub(super) limiters: ClientLimiters,
    balancing: Balancing,
    /// True before the first update.
    unknown: bool,
    /// `None` without health checks.
    pub(super) health: Option<ClusterHealth>,
    /// How long a request waits for a connection.
    pub(super) connect_timeout: Option<ConnectTimeout>,
}

/// What picking an endpoint goes by.
pub(super) struct PickRequest<'a> {
    pub now: Timestamp,
    /// Excluded.
    pub tried: &'a [SocketAddr],
    /// `None` if the endpoint is for no particular client.
    pub client: Option<IpAddr>,
    /// `None` if each request is balanced by itself.
    pub key: Option<Key>,
}

impl Members {
    pub(super) fn empty() -> Self {
        Self {
            protocol: Protocol::Detect,
            endpoints: Vec::new(),
            hinted: 0,
            used: 0,
            choice: Choice::default(),
            zones: ZonePreference::default(),
            outliers: None,
            retry_budget: RetryBudget::default(),
            limiters: ClientLimiters::default(),
            balancing: Balancing::default(),
            unknown: true,
            health: None,
            connect_timeout: None,
        }
    }

    pub(super) fn new(
        protocol: Protocol,
        endpoints: Vec<Arc<Endpoint>>,
        (choice, zones): (Choice, ZonePreference),
        locality: &Locality,
    ) -> Self {
        let addresses = endpoints.iter().map(|endpoint| endpoint.address);
        let hinted = choice.preferred_by(addresses, locality, zones);
        let count = hinted.iter().filter(|hinted| **hinted).count();
        let mut members = Self {
            protocol,
            hinted: count,
            used: match zones {
                ZonePreference::Require => count,
                _ => endpoints.len(),
            },
            endpoints,
            choice,
            zones,
            outliers: None,
            retry_budget: RetryBudget::default(),
            limiters: ClientLimiters::default(),
            balancing: Balancing::default(),
            unknown: false,
            health: None,
            connect_timeout: None,
        };
        if members.hinted > 0 {
            let mut endpoints: Vec<_> = members.endpoints.into_iter().zip(hinted).collect();
            endpoints.sort_by_key(|(_, hinted)| !hinted);
            members.endpoints = endpoints
                .into_iter()
                .map(|(endpoint, _)| endpoint)
                .collect();
        }
        members
    }

    /// The same endpoints, for a proxy at the place.
    pub(super) fn at(&self, locality: &Locality) -> Self {
        let endpoints = self.endpoints.clone();
        let choice = (self.choice.clone(), self.zones);
        let mut moved = Self::new(self.protocol, endpoints, choice, locality);
        moved.retry_budget = self.retry_budget;
        moved.connect_timeout = self.connect_timeout;
        moved.limiters = self.limiters.clone();
        // None of the endpoints is new.
        moved = moved.balancing(Some(&self.balancing.settings()), self, Timestamp::START);
        if let Some(outliers) = &self.outliers {
            moved = moved.detecting(outliers.settings(), self);
        }
        match &self.health {
            Some(health) => moved.checked_by(&health.checker, self),
            None => moved,
        }
    }

    /// The same endpoints with health checks. Those that are among the members `before` keep what
    /// is known of them.
    #[must_use]
    pub(super) fn checked_by(mut self, checker: &Arc<HealthChecker>, before: &Self) -> Self {
        let health = ClusterHealth::new(checker, self.protocol, &self.endpoints, before);
        self.health = Some(health);
        self
    }

    /// Returns false if checks have found the endpoint unhealthy.
    fn passes_checks(&self, place: usize) -> bool {
        let health = self.health.as_ref();
        health.is_none_or(|health| health.is_healthy(place))
    }

    /// The same endpoints with outlier detection. Those that are among the members `before` keep
    /// what is known of them.
    #[must_use]
    pub(super) fn detecting(mut self, settings: &OutlierDetection, before: &Self) -> Self {
        let known: HashMap<SocketAddr, usize> = match &before.outliers {
            Some(_) => before.addresses().zip(0..).collect(),
            None => HashMap::new(),
        };
        let state = |address| {
            let place = *known.get(&address)?;
            before.outliers.as_ref()?.state(place).cloned()
        };
        let states = self.addresses().map(|at| state(at).unwrap_or_default());
        let detector = OutlierDetector::new(settings.clone(), states.collect());
        self.outliers = Some(Arc::new(detector));
        self
    }

    /// The same endpoints with load balancing. Those that are not among the members `before` are
    /// new.
    #[must_use]
    pub(super) fn balancing(
        mut self,
        settings: Option<&BalancingMethod>,
        before: &Self,
        now: Timestamp,
    ) -> Self {
        if settings.is_some() {
            let (addresses, known): (Vec<_>, Vec<_>) =
                (self.addresses().collect(), before.addresses().collect());
            let before = (!before.unknown).then_some((&before.balancing, &known[..]));
            self.balancing = Balancing::new(settings, &addresses, before, now);
        }
        self
    }

    /// Returns the key of a request, if requests are balanced by one.
    pub(super) fn key_of_request(&self, head: &Parts, client: Option<IpAddr>) -> RequestKey {
        let by_key = self.balancing.by_key();
        by_key.map_or_else(RequestKey::default, |of| of.of_request(head, client))
    }

    /// Returns the key of a connection, if connections are balanced by one.
    pub(super) fn key_of_connection(&self, client: IpAddr) -> Option<Key> {
        let by_key = self.balancing.by_key();
        by_key.and_then(|of| of.of_connection(client))
    }

    /// Returns true if no endpoint is left.
    pub(super) fn are_all(&self, tried: &[SocketAddr]) -> bool {
        let mut used = self.addresses().take(self.used);
        used.all(|address| tried.contains(&address))
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// Picks an endpoint, an unhealthy one if there is no other, and returns its place. Returns
    /// `None` if all were tried. `cluster` is the name under which `sessions` knows this one.
    pub(super) fn choose(
        &self,
        asked: &PickRequest<'_>,
        sessions: (&Arc<str>, &Sessions),
        is_healthy: impl Fn(&Arc<Endpoint>) -> bool,
        panicked: impl FnOnce(),
    ) -> Option<usize> {
        // First the endpoint itself: what asks it also begins the probe that it may be due.
        let is_healthy =
            |place: usize| is_healthy(&self.endpoints[place]) && self.passes_checks(place);
        let Some(outliers) = &self.outliers else {
            return self.place_for(asked, sessions, is_healthy);
        };
        let is_used = |place: usize| is_healthy(place) && !outliers.is_ejected(place, asked.now);
        let all = 0..self.endpoints.len();
        let (panics, begins) = outliers.panics(asked.now, || all.filter(|at| is_used(*at)).count());
        if begins {
            panicked();
        }
        match panics {
            true => self.place_for(asked, sessions, |_| true),
            false => self.place_for(asked, sessions, is_used),
        }
    }

    fn place_for(
        &self,
        asked: &PickRequest<'_>,
        (cluster, sessions): (&Arc<str>, &Sessions),
        is_healthy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if let (Some(by_key), Some(key)) = (self.balancing.by_key(), asked.key) {
            return self.by_key(by_key, key, asked, is_healthy);
        }
        let place = match (self.choice.affinity, asked.client) {
            (Some(kept), Some(client)) => {
                let known = sessions.find(cluster, client, asked.now, kept);
                let known = known.and_then(|at| self.place(at));
                // An unhealthy endpoint keeps its sessions: clients come back when it is healthy.
                match known.filter(|place| self.is_untried(*place, asked)) {
                    Some(place) if is_healthy(place) => place,
                    _ => {
                        let place = self.by_affinity(client, asked, is_healthy)?;
                        if known.is_none() {
                            let endpoint = self.endpoints[place].address;
                            sessions.put(cluster, client, endpoint, asked.now);
                        }
                        place
                    }
                }
            }
            _ => self.by_algorithm(asked, is_healthy)?,
        };
        Some(place)
    }

    fn place(&self, address: SocketAddr) -> Option<usize> {
        self.endpoints
            .iter()
            .take(self.used)
            .position(|endpoint| endpoint.address == address)
    }

    fn is_untried(&self, place: usize, asked: &PickRequest<'_>) -> bool {
        !asked.tried.contains(&self.endpoints[place].address)
    }

    /// Picks the endpoint that rendezvous hashing ranks first for the client: of the healthy and
    /// preferred ones, else of the healthy ones, else of all.
    fn by_affinity(
        &self,
        client: IpAddr,
        asked: &PickRequest<'_>,
        is_healthy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let by_affinity = |count: usize, fits: &dyn Fn(usize) -> bool| {
            let fresh = (0..count).filter(|place| self.is_untried(*place, asked));
            let fits = fresh.filter(|place| fits(*place));
            fits.max_by_key(|place| sessions::score(client, self.endpoints[*place].address))
        };
        by_affinity(self.hinted, &is_healthy)
            .or_else(|| by_affinity(self.used, &is_healthy))
            .or_else(|| by_affinity(self.used, &|_| true))
    }

    /// Picks the first endpoint on the ring: of the healthy and preferred ones, else of the healthy
    /// ones, else of all.
    fn by_key(
        &self,
        by_key: &ByKey,
        key: Key,
        asked: &PickRequest<'_>,
        is_healthy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let active = |place: usize| self.endpoints[place].load.active();
        let is_fresh = |place: usize| place < self.used && self.is_untried(place, asked);
        let is_well = |place: usize| is_fresh(place) && is_healthy(place);
        let is_near = |place: usize| place < self.hinted && is_well(place);
        let near = (self.hinted > 0).then(|| by_key.pick(key, is_near, active));
        near.flatten()
            .or_else(|| by_key.pick(key, is_well, active))
            .or_else(|| by_key.pick(key, is_fresh, active))
    }

    /// Picks by the algorithm. A preferred endpoint comes before the others unless it is overloaded
    /// beside them.
    fn by_algorithm(
        &self,
        asked: &PickRequest<'_>,
        is_healthy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (balancing, now) = (&self.balancing, asked.now);
        let random = &mut fastrand::Rng::new();
        let load = |place: usize| &self.endpoints[place].load;
        let fresh = |place: usize| self.is_untried(place, asked).then(|| load(place));
        let well = |place: usize| fresh(place).filter(|_| is_healthy(place));
        let (hinted, all) = (self.hinted, self.used);
        if let Some(place) = balancing.pick((0, hinted), now, random, well) {
            let near = load(place);
            if !balancing.may_spill(near) {
                return Some(place);
            }
            let far = balancing.pick((hinted, all - hinted), now, random, well);
            let is_better = |far: &usize| balancing.should_spill(near, load(*far), now);
            return far.filter(is_better).or(Some(place));
        }
        let healthy = balancing.pick((0, all), now, random, well);
        healthy.or_else(|| balancing.pick((0, all), now, random, fresh))
    }
}
