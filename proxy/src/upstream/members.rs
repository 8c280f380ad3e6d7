//! The endpoints of a cluster at one moment, and which of them takes a request.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Choice, Locality, OutlierDetection, Protocol, RetryBudget};

use super::Endpoint;
use super::balance;
use super::outliers::OutlierDetector;
use super::sessions::{self, Sessions};
use crate::limits::ClientLimiters;

/// One version of a cluster.
pub struct Members {
    /// What the endpoints speak, as their Service port declares it.
    pub protocol: Protocol,
    /// Preferred endpoints, for clients at this proxy's place, come first.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The number of preferred endpoints.
    hinted: usize,
    choice: Choice,
    /// `None` without outlier detection.
    pub(super) outliers: Option<Arc<OutlierDetector>>,
    pub(super) retry_budget: RetryBudget,
    pub(super) limiters: ClientLimiters,
}

/// What picking an endpoint goes by.
pub(super) struct PickRequest<'a> {
    /// Nanoseconds on the clock of the endpoints' loads.
    pub now: u64,
    /// Excluded.
    pub tried: &'a [SocketAddr],
    /// `None` if the endpoint is for no particular client.
    pub client: Option<IpAddr>,
}

impl Members {
    pub(super) fn empty() -> Self {
        Self {
            protocol: Protocol::Detect,
            endpoints: Vec::new(),
            hinted: 0,
            choice: Choice::default(),
            outliers: None,
            retry_budget: RetryBudget::default(),
            limiters: ClientLimiters::default(),
        }
    }

    pub(super) fn new(
        protocol: Protocol,
        endpoints: Vec<Arc<Endpoint>>,
        choice: Choice,
        locality: &Locality,
    ) -> Self {
        let addresses = endpoints.iter().map(|endpoint| endpoint.address);
        let hinted = choice.hinted_for(addresses, locality);
        let mut members = Self {
            protocol,
            hinted: hinted.iter().filter(|hinted| **hinted).count(),
            endpoints,
            choice,
            outliers: None,
            retry_budget: RetryBudget::default(),
            limiters: ClientLimiters::default(),
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
        let mut moved = Self::new(self.protocol, endpoints, self.choice.clone(), locality);
        moved.retry_budget = self.retry_budget;
        moved.limiters = self.limiters.clone();
        match &self.outliers {
            Some(outliers) => moved.detecting(outliers.settings(), self),
            None => moved,
        }
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
        let is_healthy = |place: usize| is_healthy(&self.endpoints[place]);
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
            _ => self.by_load(asked, is_healthy)?,
        };
        Some(place)
    }

    fn place(&self, address: SocketAddr) -> Option<usize> {
        self.endpoints
            .iter()
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
            .or_else(|| by_affinity(self.endpoints.len(), &is_healthy))
            .or_else(|| by_affinity(self.endpoints.len(), &|_| true))
    }

    /// Picks by load. A preferred endpoint comes before the others unless it is overloaded beside
    /// them.
    fn by_load(
        &self,
        asked: &PickRequest<'_>,
        is_healthy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let random = &mut fastrand::Rng::new();
        let well = |place: usize| {
            let endpoint = &self.endpoints[place];
            let takes = self.is_untried(place, asked) && is_healthy(place);
            takes.then_some(&endpoint.load)
        };
        let (hinted, all) = (self.hinted, self.endpoints.len());
        if let Some(place) = balance::pick(hinted, asked.now, random, well) {
            let load = &self.endpoints[place].load;
            if !balance::is_crowded(load) {
                return Some(place);
            }
            let far = balance::pick(all - hinted, asked.now, random, |at| well(hinted + at));
            let far = far.map(|at| hinted + at);
            let cheaper = |far: &usize| {
                let far = &self.endpoints[*far].load;
                balance::should_spill(load, far, asked.now)
            };
            return far.filter(cheaper).or(Some(place));
        }
        balance::pick(all, asked.now, random, well).or_else(|| {
            let fresh = |place: usize| {
                let fresh = self.is_untried(place, asked);
                fresh.then_some(&self.endpoints[place].load)
            };
            balance::pick(all, asked.now, random, fresh)
        })
    }
}
