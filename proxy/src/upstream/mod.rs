//! Where requests and connections go: clusters of endpoints, and the pools of connections to each.
//!
//! A [`Cluster`] is the endpoints of one Service port (or one pod). Its endpoints change under traffic; an endpoint that
//! stays keeps its connections and what is known of its latency. Which cluster takes a request is decided elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use weft_api::alpn;
use weft_ir::{Choice, Endpoint, EndpointSet, Identity, Place, Protocol};

use crate::balance::Load;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::backend::Backend;

mod budget;
mod connect;
mod http1;
pub mod http2;
mod keep_alive;
mod lease;
mod members;
mod pulse;
mod send;
mod sessions;
mod speech;

use budget::RetryBudget;
use members::Asked;
use pulse::Pulse;
use sessions::Sessions;

pub use connect::{ConnectError, Transport};
pub use lease::Lease;
pub use members::Members;
pub use send::{Ask, Outcome};

/// After a failed connection an endpoint is left out for this long, where there are others; twice as long after each
/// further failure, up to `AVOID << MOST_DOUBLINGS`.
const AVOID: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 4;
/// Time in which a look at an endpoint that failed (see [`Shared::look`]) says whether it is back: TCP and TLS have less.
const LOOK: Duration = Duration::from_secs(6);

/// What all clusters of a proxy have in common: the endpoints in use, each once, however many clusters hold it.
pub struct Shared {
    /// The pod's own addresses: what goes there never leaves the pod and meets no inbound proxy.
    own: Vec<IpAddr>,
    tls: Tls,
    metrics: Arc<Metrics>,
    started: Instant,
    known: Mutex<Known>,
    /// Where the proxy's pod runs.
    place: ArcSwap<Place>,
    sessions: Sessions,
    /// Requests under way to one endpoint at most.
    endpoint_requests: u32,
}

/// What is in use, each once. What no longer is goes with the next [`Shared::sweep`].
#[derive(Default)]
struct Known {
    peers: HashMap<Key, Weak<Peer>>,
    pulses: HashMap<(IpAddr, Identity), Weak<Pulse>>,
}

/// An endpoint, and with which settings TLS is spoken with the application itself.
type Key = (Endpoint, Option<u64>);

impl Known {
    /// One for all ports of a pod whose proxy is spoken to: it answers for all of them.
    fn pulse(&mut self, endpoint: &Endpoint, tls: Option<&Arc<Backend>>) -> Arc<Pulse> {
        let (Some(identity), None) = (&endpoint.identity, tls) else {
            return Arc::default();
        };
        let key = (endpoint.address.ip(), identity.clone());
        if let Some(pulse) = self.pulses.get(&key).and_then(Weak::upgrade) {
            return pulse;
        }
        let pulse = Arc::default();
        self.pulses.insert(key, Arc::downgrade(&pulse));
        pulse
    }

    /// All that share the peer's pulse, itself too.
    fn ports(&self, of: &Peer) -> Vec<Arc<Peer>> {
        let all = self.peers.values().filter_map(Weak::upgrade);
        all.filter(|peer| Arc::ptr_eq(&peer.pulse, &of.pulse))
            .collect()
    }
}

impl Shared {
    /// `own`: the pod's own addresses.
    pub fn new(own: Vec<IpAddr>, tls: Tls, metrics: Arc<Metrics>) -> Self {
        Self {
            own,
            tls,
            metrics,
            started: Instant::now(),
            known: Mutex::default(),
            place: ArcSwap::default(),
            sessions: Sessions::default(),
            endpoint_requests: u32::MAX,
        }
    }

    /// No more requests than this are under way to one endpoint.
    #[must_use]
    pub fn with_endpoint_requests(mut self, most: u32) -> Self {
        self.endpoint_requests = most;
        self
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Where the proxy's pod runs; whether it was thought to be elsewhere.
    pub fn set_place(&self, place: &Place) -> bool {
        let moved = **self.place.load() != *place;
        if moved {
            self.place.store(Arc::new(place.clone()));
        }
        moved
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// Whether what was sent to `address` may be meant for this pod: it is one of its addresses, or of another interface of
    /// it (Kubernetes names only those of the first). Anything is while the pod's addresses are not known.
    pub fn is_for_pod(&self, address: IpAddr) -> bool {
        self.own.is_empty() || self.is_own(address) || is_of_interface(address)
    }

    /// Nanoseconds since the start, for [`Load`].
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// The endpoint at `address` in plain text: the pod's own application, or what is outside the mesh.
    pub fn plain(&self, address: SocketAddr) -> Arc<Peer> {
        let identity = None;
        self.peer(&Endpoint { address, identity }, None)
    }

    /// Closes connections that were idle too long, or are too old. To be called every few seconds.
    pub fn sweep(&self) {
        let peers: Vec<Arc<Peer>> = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.peers.retain(|_, peer| peer.strong_count() > 0);
            known.pulses.retain(|_, pulse| pulse.strong_count() > 0);
            known.peers.values().filter_map(Weak::upgrade).collect()
        };
        for peer in peers {
            peer.http1.sweep(Instant::now());
            peer.http2.sweep(self.now());
            peer.mixed.sweep(self.now());
        }
    }

    /// Leaves the endpoint out for a moment, where there are others.
    pub fn avoid(&self, peer: &Peer) {
        peer.avoid(self.now());
    }

    /// Leaves out every port of the pod, whose proxy is not there any more.
    fn avoid_pod(&self, peer: &Peer) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = known.ports(peer);
        drop(known);
        let now = self.now();
        ports.iter().for_each(|port| port.avoid(now));
    }

    /// Finds out whether an endpoint is back, so that no request has to wait for one that is not.
    fn look(self: &Arc<Self>, peer: &Arc<Peer>) {
        let (shared, peer) = (self.clone(), peer.clone());
        tokio::spawn(async move {
            let found = shared.connect(&peer, alpn::H2_FOR_H1).await;
            peer.avoid_until.store(0, Relaxed);
            if found.is_err() {
                shared.avoid(&peer);
            }
        });
    }

    fn peer(&self, endpoint: &Endpoint, tls: Option<&Arc<Backend>>) -> Arc<Peer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (endpoint.clone(), tls.map(|tls| tls.id));
        if let Some(peer) = known.peers.get(&key).and_then(Weak::upgrade) {
            return peer;
        }
        let own = self.is_own(endpoint.address.ip());
        let pulse = known.pulse(endpoint, tls);
        let peer = Arc::new(Peer::new(endpoint, tls.cloned(), own, pulse));
        known.peers.insert(key, Arc::downgrade(&peer));
        peer
    }
}

/// Whether an interface but loopback has the address: only then can a socket be bound to it.
fn is_of_interface(address: IpAddr) -> bool {
    let special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    !special && std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// One endpoint: its address, how to speak to it, and what is known of it.
pub struct Peer {
    pub address: SocketAddr,
    /// The identity to expect over mutual TLS; `None`: plain text.
    pub identity: Option<Arc<Identity>>,
    /// TLS with the application itself, within mutual TLS where there is an identity.
    pub tls: Option<Arc<Backend>>,
    /// The pod itself.
    pub own: bool,
    pub load: Load,
    /// Nanoseconds on the clock of [`Shared::now`].
    avoid_until: AtomicU64,
    /// Failed connections since the last good one, those counted once that fail together.
    misses: AtomicU32,
    /// Of all ports of the pod.
    pulse: Arc<Pulse>,
    /// HTTP/1.1 with the application itself.
    http1: http1::Idle,
    /// HTTP/2 for an application that speaks it: plain, or between proxies.
    http2: http2::Pool,
    /// HTTP/2 between proxies for an application that speaks HTTP/1.1.
    mixed: http2::Pool,
    /// What the application chose, where it is asked over TLS.
    speech: speech::Speech,
}

impl Peer {
    fn new(endpoint: &Endpoint, tls: Option<Arc<Backend>>, own: bool, pulse: Arc<Pulse>) -> Self {
        Self {
            address: endpoint.address,
            identity: endpoint.identity.clone().filter(|_| !own).map(Arc::new),
            tls,
            own,
            load: Load::default(),
            avoid_until: AtomicU64::new(0),
            misses: AtomicU32::new(0),
            pulse,
            http1: http1::Idle::default(),
            http2: http2::Pool::default(),
            mixed: http2::Pool::default(),
            speech: speech::Speech::default(),
        }
    }

    /// Whether requests reach a proxy of the mesh, whose word about them counts, and not the application itself.
    pub fn is_proxy(&self) -> bool {
        self.identity.is_some() && self.tls.is_none()
    }

    fn avoid(&self, now: u64) {
        if self.avoid_until.load(Relaxed) > now {
            return;
        }
        let misses = self.misses.fetch_add(1, Relaxed).min(MOST_DOUBLINGS);
        let until = now + ((AVOID.as_nanos() as u64) << misses);
        self.avoid_until.store(until, Relaxed);
    }

    /// It is there: a connection was made, a request answered, or a datagram came back.
    pub fn reached(&self) {
        if self.misses.load(Relaxed) > 0 {
            self.misses.store(0, Relaxed);
        }
    }

    fn is_left_out(&self, now: u64) -> bool {
        self.avoid_until.load(Relaxed) > now
    }

    /// Nothing speaks against it.
    fn is_well(&self, now: u64) -> bool {
        self.misses.load(Relaxed) == 0 && !self.is_left_out(now) && !self.pulse.silent(now)
    }

    /// It failed, its time to be left out is over, and nobody else is looking whether it is back; true for one caller.
    fn is_to_be_looked_at(&self, now: u64) -> bool {
        if self.misses.load(Relaxed) == 0 {
            return false;
        }
        let until = self.avoid_until.load(Relaxed);
        let looking = now + LOOK.as_nanos() as u64;
        until <= now
            && self
                .avoid_until
                .compare_exchange(until, looking, Relaxed, Relaxed)
                .is_ok()
    }
}

/// The endpoints of a Service port.
pub struct Cluster {
    /// `namespace/service:port`, or the pod's `ip:port`.
    pub name: Arc<str>,
    pub shared: Arc<Shared>,
    members: ArcSwap<Members>,
    budget: RetryBudget,
}

impl Cluster {
    /// Without endpoints until the first [`Cluster::set`].
    pub fn new(name: Arc<str>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            name,
            shared,
            members: ArcSwap::from_pointee(Members::empty()),
            budget: RetryBudget::default(),
        })
    }

    /// Replaces the endpoints by those of the set; those that stay, and are spoken to as before, keep their connections.
    /// Requests under way go on.
    pub fn take(&self, set: &EndpointSet) {
        let tls = set.tls.as_ref().map(|tls| self.shared.tls.backend(tls));
        let peer = |one| self.shared.peer(one, tls.as_ref());
        let peers = set.endpoints.iter().map(peer).collect();
        let choice = set.choice.clone();
        let place = self.shared.place.load();
        let members = Members::new(set.protocol, peers, choice, &place);
        self.members.store(Arc::new(members));
    }

    /// As [`Cluster::take`], of endpoints none of which goes before the others.
    pub fn set(&self, protocol: Protocol, endpoints: &[Endpoint]) {
        let peer = |one| self.shared.peer(one, None);
        let peers = endpoints.iter().map(peer).collect();
        let members = Members::new(protocol, peers, Choice::default(), &Place::default());
        self.members.store(Arc::new(members));
    }

    /// The proxy is at another place.
    pub fn moved(&self) {
        let members = self.members.load().at(&self.shared.place.load());
        self.members.store(Arc::new(members));
    }

    /// Whether one more request may be sent again; counts it.
    pub fn may_repeat(&self) -> bool {
        let may = self.budget.spend(self.shared.now());
        if !may {
            self.shared.metrics.retry_budget_exhausted.inc();
        }
        may
    }

    /// The endpoint for a request or connection of the client; none of `tried`. `None` when there is no (other) endpoint.
    pub fn pick(&self, tried: &[SocketAddr], client: Option<IpAddr>) -> Option<Arc<Peer>> {
        let now = self.shared.now();
        let asked = Asked { now, tried, client };
        self.choose(&asked, |peer| {
            if peer.is_to_be_looked_at(now) {
                self.shared.look(peer);
            }
            peer.is_well(now)
        })
    }

    /// The endpoint for datagrams of the client: only these show whether it is there.
    pub fn pick_for_datagrams(&self, client: IpAddr) -> Option<Arc<Peer>> {
        let now = self.shared.now();
        let asked = Asked {
            now,
            tried: &[],
            client: Some(client),
        };
        self.choose(&asked, |peer| !peer.is_left_out(now))
    }

    fn choose(&self, asked: &Asked<'_>, is_well: impl Fn(&Arc<Peer>) -> bool) -> Option<Arc<Peer>> {
        let sessions = (&self.name, &self.shared.sessions);
        self.members.load().choose(asked, sessions, is_well)
    }

    pub fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_left_out_longer_each_time() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let identity = None;
        let peer = Peer::new(&Endpoint { address, identity }, None, false, Arc::default());
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            peer.avoid(now);
            // Others that failed at the same time.
            peer.avoid(now);
            peer.avoid(now + 1);
            let until = peer.avoid_until.load(Relaxed);
            pauses.push(Duration::from_nanos(until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
        peer.reached();
        peer.avoid(now);
        assert_eq!(
            peer.avoid_until.load(Relaxed) - now,
            AVOID.as_nanos() as u64
        );
    }

    #[test]
    fn what_failed_is_looked_at_by_one_before_it_is_used() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let identity = None;
        let peer = Peer::new(&Endpoint { address, identity }, None, false, Arc::default());
        assert!(peer.is_well(0) && !peer.is_to_be_looked_at(0));
        peer.avoid(0);
        let (back, look) = (AVOID.as_nanos() as u64, LOOK.as_nanos() as u64);
        assert!(!peer.is_to_be_looked_at(back - 1));
        assert!(peer.is_to_be_looked_at(back) && !peer.is_to_be_looked_at(back));
        assert!(!peer.is_well(back + look), "nothing was found out");
        assert!(peer.is_to_be_looked_at(back + look));
        peer.reached();
        assert!(peer.is_well(back + 2 * look) && !peer.is_to_be_looked_at(back + 2 * look));
    }

    #[test]
    fn a_pod_that_is_silent_on_one_port_is_silent_on_all() {
        let identity = |account: &str| {
            let domain = weft_ir::TrustDomain::new("cluster.local").unwrap();
            Identity::new(domain, "shop", account).ok()
        };
        let at = |address: &str, identity: Option<Identity>| Endpoint {
            address: address.parse().unwrap(),
            identity,
        };
        let mut known = Known::default();
        let mut pulse = |endpoint: Endpoint| known.pulse(&endpoint, None);
        let http = pulse(at("10.0.0.1:80", identity("a")));
        let grpc = pulse(at("10.0.0.1:90", identity("a")));
        let others = [
            pulse(at("10.0.0.2:80", identity("a"))),
            // The address has become another pod's.
            pulse(at("10.0.0.1:80", identity("b"))),
            // Where no proxy answers for them, ports are by themselves.
            pulse(at("10.0.0.1:80", None)),
        ];
        http.begin(0);
        let later = Duration::from_secs(2).as_nanos() as u64;
        assert!(http.silent(later) && grpc.silent(later));
        assert!(others.iter().all(|pulse| !pulse.silent(later)));
        grpc.heard(later);
        assert!(!http.silent(later));
    }

    #[test]
    fn ports_of_a_pod_are_found_by_its_pulse() {
        let mut known = Known::default();
        let pulse = Arc::<Pulse>::default();
        let mut peer = |port: u16, pulse: &Arc<Pulse>| {
            let (address, identity) = (SocketAddr::from(([10, 0, 0, 1], port)), None);
            let endpoint = Endpoint { address, identity };
            let peer = Arc::new(Peer::new(&endpoint, None, false, pulse.clone()));
            known.peers.insert((endpoint, None), Arc::downgrade(&peer));
            peer
        };
        let (http, _grpc) = (peer(80, &pulse), peer(90, &pulse));
        let _other = peer(70, &Arc::default());
        let ports = known.ports(&http);
        let mut ports: Vec<u16> = ports.iter().map(|peer| peer.address.port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, [80, 90]);
    }
}
