//! Where requests and connections go: clusters of endpoints, and the pools of connections to each.
//!
//! A [`Cluster`] is the endpoints of one Service port (or one pod). Its endpoints change under traffic; an endpoint that
//! stays keeps its connections and what is known of its latency. Which cluster takes a request is decided elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use weft_ir::{Endpoint, Identity, Protocol};

use crate::balance::Load;

/// What all clusters of a proxy have in common: the endpoints in use, each once, however many clusters hold it.
pub struct Shared {
    /// The pod's own addresses: what goes there never leaves the pod and meets no inbound proxy.
    own: Vec<IpAddr>,
    started: Instant,
    peers: Mutex<HashMap<Endpoint, Weak<Peer>>>,
}

impl Shared {
    /// `own`: the pod's own addresses.
    pub fn new(own: Vec<IpAddr>) -> Self {
        Self {
            own,
            started: Instant::now(),
            peers: Mutex::default(),
        }
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// Nanoseconds since the start, for [`Load`].
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn peer(&self, endpoint: &Endpoint) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(endpoint).and_then(Weak::upgrade) {
            return peer;
        }
        let peer = Arc::new(Peer::new(endpoint, self.is_own(endpoint.address.ip())));
        peers.retain(|_, peer| peer.strong_count() > 0);
        peers.insert(endpoint.clone(), Arc::downgrade(&peer));
        peer
    }
}

/// One endpoint: its address, how to speak to it, and what is known of it.
pub struct Peer {
    pub address: SocketAddr,
    /// The identity to expect over mutual TLS; `None`: plain text.
    pub identity: Option<Arc<Identity>>,
    /// The pod itself.
    pub own: bool,
    pub load: Load,
}

impl Peer {
    fn new(endpoint: &Endpoint, own: bool) -> Self {
        Self {
            address: endpoint.address,
            identity: endpoint.identity.clone().filter(|_| !own).map(Arc::new),
            own,
            load: Load::default(),
        }
    }
}

/// The endpoints of a Service port.
pub struct Cluster {
    /// `namespace/service:port`, or the pod's `ip:port`.
    pub name: Arc<str>,
    pub shared: Arc<Shared>,
    members: ArcSwap<Members>,
}

/// One version of a cluster.
pub struct Members {
    /// What the endpoints speak, as their Service port declares it.
    pub protocol: Protocol,
    pub peers: Vec<Arc<Peer>>,
}

impl Cluster {
    /// Without endpoints until the first [`Cluster::set`].
    pub fn new(name: Arc<str>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            name,
            shared,
            members: ArcSwap::from_pointee(Members {
                protocol: Protocol::Detect,
                peers: Vec::new(),
            }),
        })
    }

    /// Replaces the endpoints; those that stay keep their connections. Requests under way go on.
    pub fn set(&self, protocol: Protocol, endpoints: &[Endpoint]) {
        let peers = endpoints.iter().map(|one| self.shared.peer(one)).collect();
        self.members.store(Arc::new(Members { protocol, peers }));
    }

    pub fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }
}
