//! The endpoints of a cluster at one moment, and which of them takes a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_ir::{Choice, Place, Protocol};

use super::Peer;
use super::sessions::{self, Sessions};
use crate::balance;

/// One version of a cluster.
pub struct Members {
    /// What the endpoints speak, as their Service port declares it.
    pub protocol: Protocol,
    /// Those that are for clients of this proxy's place come first.
    pub peers: Vec<Arc<Peer>>,
    /// How many are; 0: none is preferred.
    near: usize,
    choice: Choice,
}

/// Who asks for an endpoint, and when.
pub(super) struct Asked<'a> {
    /// Nanoseconds on the clock of the peers' loads.
    pub now: u64,
    /// Left out.
    pub tried: &'a [SocketAddr],
    /// `None`: the endpoint is for no one client.
    pub client: Option<IpAddr>,
}

impl Members {
    pub(super) fn empty() -> Self {
        Self {
            protocol: Protocol::Detect,
            peers: Vec::new(),
            near: 0,
            choice: Choice::default(),
        }
    }

    pub(super) fn new(
        protocol: Protocol,
        peers: Vec<Arc<Peer>>,
        choice: Choice,
        place: &Place,
    ) -> Self {
        let addresses = peers.iter().map(|peer| peer.address);
        let near = choice.near(addresses, place);
        let mut members = Self {
            protocol,
            near: near.iter().filter(|near| **near).count(),
            peers,
            choice,
        };
        if members.near > 0 {
            let mut peers: Vec<_> = members.peers.into_iter().zip(near).collect();
            peers.sort_by_key(|(_, near)| !near);
            members.peers = peers.into_iter().map(|(peer, _)| peer).collect();
        }
        members
    }

    /// The same, for a proxy at the place.
    pub(super) fn at(&self, place: &Place) -> Self {
        let peers = self.peers.clone();
        Self::new(self.protocol, peers, self.choice.clone(), place)
    }

    /// The endpoint to use; one that is not well where there is no other. `None`: all were tried. `cluster`: by which
    /// name the `sessions` know this one.
    pub(super) fn choose(
        &self,
        asked: &Asked<'_>,
        (cluster, sessions): (&Arc<str>, &Sessions),
        is_well: impl Fn(&Arc<Peer>) -> bool,
    ) -> Option<Arc<Peer>> {
        let place = match (self.choice.affinity, asked.client) {
            (Some(kept), Some(client)) => {
                let known = sessions.find(cluster, client, asked.now, kept);
                let known = known.and_then(|at| self.place(at));
                // Who is not well keeps its clients: they come back when it is.
                match known.filter(|place| self.is_fresh(*place, asked)) {
                    Some(place) if is_well(&self.peers[place]) => place,
                    _ => {
                        let place = self.best(client, asked, is_well)?;
                        if known.is_none() {
                            let endpoint = self.peers[place].address;
                            sessions.put(cluster, client, endpoint, asked.now);
                        }
                        place
                    }
                }
            }
            _ => self.cheapest(asked, is_well)?,
        };
        self.peers.get(place).cloned()
    }

    fn place(&self, address: SocketAddr) -> Option<usize> {
        self.peers.iter().position(|peer| peer.address == address)
    }

    fn is_fresh(&self, place: usize, asked: &Asked<'_>) -> bool {
        !asked.tried.contains(&self.peers[place].address)
    }

    /// The one that suits the client best, of those that are near and well, else of those that are well, else of all.
    fn best(
        &self,
        client: IpAddr,
        asked: &Asked<'_>,
        is_well: impl Fn(&Arc<Peer>) -> bool,
    ) -> Option<usize> {
        let best = |count: usize, fits: &dyn Fn(&Arc<Peer>) -> bool| {
            let fresh = (0..count).filter(|place| self.is_fresh(*place, asked));
            let fits = fresh.filter(|place| fits(&self.peers[*place]));
            fits.max_by_key(|place| sessions::score(client, self.peers[*place].address))
        };
        best(self.near, &is_well)
            .or_else(|| best(self.peers.len(), &is_well))
            .or_else(|| best(self.peers.len(), &|_| true))
    }

    /// By load. One that is near goes before the others unless it has far too much to do.
    fn cheapest(&self, asked: &Asked<'_>, is_well: impl Fn(&Arc<Peer>) -> bool) -> Option<usize> {
        let random = &mut fastrand::Rng::new();
        let well = |place: usize| {
            let peer = &self.peers[place];
            let takes = self.is_fresh(place, asked) && is_well(peer);
            takes.then_some(&peer.load)
        };
        let (near, all) = (self.near, self.peers.len());
        if let Some(place) = balance::pick(near, asked.now, random, well) {
            let load = &self.peers[place].load;
            if !balance::is_crowded(load) {
                return Some(place);
            }
            let far = balance::pick(all - near, asked.now, random, |at| well(near + at));
            let far = far.map(|at| near + at);
            let cheaper = |far: &usize| {
                let far = &self.peers[*far].load;
                balance::gives_way(load, far, asked.now)
            };
            return far.filter(cheaper).or(Some(place));
        }
        balance::pick(all, asked.now, random, well).or_else(|| {
            let fresh = |place: usize| {
                let fresh = self.is_fresh(place, asked);
                fresh.then_some(&self.peers[place].load)
            };
            balance::pick(all, asked.now, random, fresh)
        })
    }
}
