//! The endpoints of a cluster at one moment, and which of them takes a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Choice, Locality, Protocol};

use super::Endpoint;
use super::balance;
use super::sessions::{self, Sessions};

/// One version of a cluster.
pub struct Members {
    /// What the endpoints speak, as their Service port declares it.
    pub protocol: Protocol,
    /// Preferred endpoints, for clients at this proxy's place, come first.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The number of preferred endpoints.
    hinted: usize,
    choice: Choice,
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
        Self::new(self.protocol, endpoints, self.choice.clone(), locality)
    }

    /// Picks an endpoint, an unhealthy one if there is no other. Returns `None` if all were tried.
    /// `cluster` is the name under which `sessions` knows this one.
    pub(super) fn choose(
        &self,
        asked: &PickRequest<'_>,
        (cluster, sessions): (&Arc<str>, &Sessions),
        is_healthy: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let place = match (self.choice.affinity, asked.client) {
            (Some(kept), Some(client)) => {
                let known = sessions.find(cluster, client, asked.now, kept);
                let known = known.and_then(|at| self.place(at));
                // An unhealthy endpoint keeps its sessions: clients come back when it is healthy.
                match known.filter(|place| self.is_untried(*place, asked)) {
                    Some(place) if is_healthy(&self.endpoints[place]) => place,
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
        self.endpoints.get(place).cloned()
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
        is_healthy: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<usize> {
        let by_affinity = |count: usize, fits: &dyn Fn(&Arc<Endpoint>) -> bool| {
            let fresh = (0..count).filter(|place| self.is_untried(*place, asked));
            let fits = fresh.filter(|place| fits(&self.endpoints[*place]));
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
        is_healthy: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<usize> {
        let random = &mut fastrand::Rng::new();
        let well = |place: usize| {
            let endpoint = &self.endpoints[place];
            let takes = self.is_untried(place, asked) && is_healthy(endpoint);
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
