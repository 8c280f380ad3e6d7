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
use weft_ir::{Choice, EndpointSet, Identity, Place, Protocol};

use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::backend::Backend;
use balance::Load;

pub mod balance;
mod budget;
mod connect;
mod error;
mod http1;
pub mod http2;
mod keep_alive;
mod lease;
mod liveness;
mod members;
mod negotiated_http;
mod send;
mod sessions;
pub mod target;

use budget::RetryBudget;
use liveness::Liveness;
use members::PickRequest;
use sessions::Sessions;

pub use connect::{ConnectError, Transport};
pub use error::SendError;
pub use lease::Lease;
pub use members::Members;
pub use send::{UpstreamRequest, UpstreamResponse};

/// After a failed connection an endpoint is left out for this long, where there are others; twice as long after each
/// further failure, up to `EJECTION_TIME << MAX_DOUBLINGS`.
const EJECTION_TIME: Duration = Duration::from_secs(1);
const MAX_DOUBLINGS: u32 = 4;
/// Time in which a look at an endpoint that failed (see [`EndpointRegistry::probe`]) says whether it is back: TCP and TLS have less.
const PROBE_TIMEOUT: Duration = Duration::from_secs(6);

/// What all clusters of a proxy have in common: the endpoints in use, each once, however many clusters hold it.
pub struct EndpointRegistry {
    /// The pod's own addresses: what goes there never leaves the pod and meets no inbound proxy.
    own_addresses: Vec<IpAddr>,
    tls: Tls,
    metrics: Arc<Metrics>,
    started: Instant,
    known: Mutex<InUse>,
    /// Where the proxy's pod runs.
    place: ArcSwap<Place>,
    sessions: Sessions,
    /// Requests under way to one endpoint at most.
    endpoint_requests: u32,
}

/// What is in use, each once. What no longer is goes with the next [`EndpointRegistry::sweep`].
#[derive(Default)]
struct InUse {
    endpoints: HashMap<Key, Weak<Endpoint>>,
    liveness: HashMap<(IpAddr, Identity), Weak<Liveness>>,
}

/// An endpoint, and with which settings TLS is spoken with the application itself.
type Key = (weft_ir::Endpoint, Option<u64>);

impl InUse {
    /// One for all ports of a pod whose proxy is spoken to: it answers for all of them.
    fn liveness(
        &mut self,
        config: &weft_ir::Endpoint,
        tls: Option<&Arc<Backend>>,
    ) -> Arc<Liveness> {
        let (Some(identity), None) = (&config.identity, tls) else {
            return Arc::default();
        };
        let key = (config.address.ip(), identity.clone());
        if let Some(liveness) = self.liveness.get(&key).and_then(Weak::upgrade) {
            return liveness;
        }
        let liveness = Arc::default();
        self.liveness.insert(key, Arc::downgrade(&liveness));
        liveness
    }

    /// All that share the endpoint's liveness, itself too.
    fn ports(&self, of: &Endpoint) -> Vec<Arc<Endpoint>> {
        let all = self.endpoints.values().filter_map(Weak::upgrade);
        all.filter(|endpoint| Arc::ptr_eq(&endpoint.liveness, &of.liveness))
            .collect()
    }
}

impl EndpointRegistry {
    /// `own_addresses`: the pod's own addresses.
    pub fn new(own_addresses: Vec<IpAddr>, tls: Tls, metrics: Arc<Metrics>) -> Self {
        Self {
            own_addresses,
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
        self.own_addresses.contains(&address)
    }

    /// Whether what was sent to `address` may be meant for this pod: it is one of its addresses, or of another interface of
    /// it (Kubernetes names only those of the first). Anything is while the pod's addresses are not known.
    pub fn is_for_pod(&self, address: IpAddr) -> bool {
        self.own_addresses.is_empty() || self.is_own(address) || is_of_interface(address)
    }

    /// Nanoseconds since the start, for [`Load`].
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// The endpoint at `address` in plain text: the pod's own application, or what is outside the mesh.
    pub fn plaintext(&self, address: SocketAddr) -> Arc<Endpoint> {
        let identity = None;
        self.endpoint(&weft_ir::Endpoint { address, identity }, None)
    }

    /// Closes connections that were idle too long, or are too old. To be called every few seconds.
    pub fn sweep(&self) {
        let endpoints: Vec<Arc<Endpoint>> = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known
                .endpoints
                .retain(|_, endpoint| endpoint.strong_count() > 0);
            known
                .liveness
                .retain(|_, liveness| liveness.strong_count() > 0);
            known.endpoints.values().filter_map(Weak::upgrade).collect()
        };
        for endpoint in endpoints {
            endpoint.http1.sweep(Instant::now());
            endpoint.http2.sweep(self.now());
            endpoint.http2_for_http1.sweep(self.now());
        }
    }

    /// Leaves the endpoint out for a moment, where there are others.
    pub fn eject(&self, endpoint: &Endpoint) {
        endpoint.eject(self.now());
    }

    /// Leaves out every port of the pod, whose proxy is not there any more.
    fn eject_pod(&self, endpoint: &Endpoint) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = known.ports(endpoint);
        drop(known);
        let now = self.now();
        ports.iter().for_each(|port| port.eject(now));
    }

    /// Finds out whether an endpoint is back, so that no request has to wait for one that is not.
    fn probe(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let (registry, endpoint) = (self.clone(), endpoint.clone());
        tokio::spawn(async move {
            let found = registry.connect(&endpoint, alpn::H2_FOR_H1).await;
            endpoint.ejected_until.store(0, Relaxed);
            if found.is_err() {
                registry.eject(&endpoint);
            }
        });
    }

    fn endpoint(&self, config: &weft_ir::Endpoint, tls: Option<&Arc<Backend>>) -> Arc<Endpoint> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (config.clone(), tls.map(|tls| tls.id));
        if let Some(endpoint) = known.endpoints.get(&key).and_then(Weak::upgrade) {
            return endpoint;
        }
        let own = self.is_own(config.address.ip());
        let liveness = known.liveness(config, tls);
        let endpoint = Arc::new(Endpoint::new(config, tls.cloned(), own, liveness));
        known.endpoints.insert(key, Arc::downgrade(&endpoint));
        endpoint
    }
}

/// Whether an interface but loopback has the address: only then can a socket be bound to it.
fn is_of_interface(address: IpAddr) -> bool {
    let special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    !special && std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// One endpoint: its address, how to speak to it, and what is known of it.
pub struct Endpoint {
    pub address: SocketAddr,
    /// The identity to expect over mutual TLS; `None`: plain text.
    pub identity: Option<Arc<Identity>>,
    /// TLS with the application itself, within mutual TLS where there is an identity.
    pub tls: Option<Arc<Backend>>,
    /// The pod itself.
    pub own: bool,
    pub load: Load,
    /// Nanoseconds on the clock of [`EndpointRegistry::now`].
    ejected_until: AtomicU64,
    /// Failed connections since the last good one, those counted once that fail together.
    failures: AtomicU32,
    /// Of all ports of the pod.
    liveness: Arc<Liveness>,
    /// HTTP/1.1 with the application itself.
    http1: http1::Pool,
    /// HTTP/2 for an application that speaks it: plain, or between proxies.
    http2: http2::Pool,
    /// HTTP/2 between proxies for an application that speaks HTTP/1.1.
    http2_for_http1: http2::Pool,
    /// What the application chose, where it is asked over TLS.
    negotiated: negotiated_http::NegotiatedHttp,
}

impl Endpoint {
    fn new(
        config: &weft_ir::Endpoint,
        tls: Option<Arc<Backend>>,
        own: bool,
        liveness: Arc<Liveness>,
    ) -> Self {
        Self {
            address: config.address,
            identity: config.identity.clone().filter(|_| !own).map(Arc::new),
            tls,
            own,
            load: Load::default(),
            ejected_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            liveness,
            http1: http1::Pool::default(),
            http2: http2::Pool::default(),
            http2_for_http1: http2::Pool::default(),
            negotiated: negotiated_http::NegotiatedHttp::default(),
        }
    }

    /// Whether requests reach a proxy of the mesh, whose word about them counts, and not the application itself.
    pub fn is_proxy(&self) -> bool {
        self.identity.is_some() && self.tls.is_none()
    }

    fn eject(&self, now: u64) {
        if self.ejected_until.load(Relaxed) > now {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).min(MAX_DOUBLINGS);
        let until = now + ((EJECTION_TIME.as_nanos() as u64) << failures);
        self.ejected_until.store(until, Relaxed);
    }

    /// It is there: a connection was made, a request answered, or a datagram came back.
    pub fn mark_reachable(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Nothing speaks against it.
    fn is_healthy(&self, now: u64) -> bool {
        self.failures.load(Relaxed) == 0 && !self.is_ejected(now) && !self.liveness.is_silent(now)
    }

    /// It failed, its time to be left out is over, and nobody else probes it; true for one caller.
    fn try_claim_probe(&self, now: u64) -> bool {
        if self.failures.load(Relaxed) == 0 {
            return false;
        }
        let until = self.ejected_until.load(Relaxed);
        let claimed_until = now + PROBE_TIMEOUT.as_nanos() as u64;
        until <= now
            && self
                .ejected_until
                .compare_exchange(until, claimed_until, Relaxed, Relaxed)
                .is_ok()
    }
}

/// The endpoints of a Service port.
pub struct Cluster {
    /// `namespace/service:port`, or the pod's `ip:port`.
    pub name: Arc<str>,
    pub registry: Arc<EndpointRegistry>,
    members: ArcSwap<Members>,
    budget: RetryBudget,
}

impl Cluster {
    /// Without endpoints until the first [`Cluster::set_endpoints`].
    pub fn new(name: Arc<str>, registry: Arc<EndpointRegistry>) -> Arc<Self> {
        Arc::new(Self {
            name,
            registry,
            members: ArcSwap::from_pointee(Members::empty()),
            budget: RetryBudget::default(),
        })
    }

    /// Replaces the endpoints by those of the set; those that stay, and are spoken to as before, keep their connections.
    /// Requests under way go on.
    pub fn update(&self, set: &EndpointSet) {
        let tls = set.tls.as_ref().map(|tls| self.registry.tls.backend(tls));
        let endpoint = |one| self.registry.endpoint(one, tls.as_ref());
        let endpoints = set.endpoints.iter().map(endpoint).collect();
        let choice = set.choice.clone();
        let place = self.registry.place.load();
        let members = Members::new(set.protocol, endpoints, choice, &place);
        self.members.store(Arc::new(members));
    }

    /// As [`Cluster::update`], of endpoints none of which goes before the others.
    pub fn set_endpoints(&self, protocol: Protocol, endpoints: &[weft_ir::Endpoint]) {
        let endpoint = |one| self.registry.endpoint(one, None);
        let endpoints = endpoints.iter().map(endpoint).collect();
        let members = Members::new(protocol, endpoints, Choice::default(), &Place::default());
        self.members.store(Arc::new(members));
    }

    /// The proxy is at another place.
    pub fn relocate(&self) {
        let members = self.members.load().at(&self.registry.place.load());
        self.members.store(Arc::new(members));
    }

    /// Whether one more request may be sent again; counts it.
    pub fn try_spend_retry(&self) -> bool {
        let may = self.budget.spend(self.registry.now());
        if !may {
            self.registry.metrics.retry_budget_exhausted.inc();
        }
        may
    }

    /// The endpoint for a request or connection of the client; none of `tried`. `None` when there is no (other) endpoint.
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

    /// The endpoint for datagrams of the client: only these show whether it is there.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_left_out_longer_each_time() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let identity = None;
        let endpoint = Endpoint::new(
            &weft_ir::Endpoint { address, identity },
            None,
            false,
            Arc::default(),
        );
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            endpoint.eject(now);
            // Others that failed at the same time.
            endpoint.eject(now);
            endpoint.eject(now + 1);
            let until = endpoint.ejected_until.load(Relaxed);
            pauses.push(Duration::from_nanos(until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
        endpoint.mark_reachable();
        endpoint.eject(now);
        assert_eq!(
            endpoint.ejected_until.load(Relaxed) - now,
            EJECTION_TIME.as_nanos() as u64
        );
    }

    #[test]
    fn what_failed_is_looked_at_by_one_before_it_is_used() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let identity = None;
        let endpoint = Endpoint::new(
            &weft_ir::Endpoint { address, identity },
            None,
            false,
            Arc::default(),
        );
        assert!(endpoint.is_healthy(0) && !endpoint.try_claim_probe(0));
        endpoint.eject(0);
        let (back, probe) = (
            EJECTION_TIME.as_nanos() as u64,
            PROBE_TIMEOUT.as_nanos() as u64,
        );
        assert!(!endpoint.try_claim_probe(back - 1));
        assert!(endpoint.try_claim_probe(back) && !endpoint.try_claim_probe(back));
        assert!(!endpoint.is_healthy(back + probe), "nothing was found out");
        assert!(endpoint.try_claim_probe(back + probe));
        endpoint.mark_reachable();
        assert!(
            endpoint.is_healthy(back + 2 * probe) && !endpoint.try_claim_probe(back + 2 * probe)
        );
    }

    #[test]
    fn a_pod_that_is_silent_on_one_port_is_silent_on_all() {
        let identity = |account: &str| {
            let domain = weft_ir::TrustDomain::new("cluster.local").unwrap();
            Identity::new(domain, "shop", account).ok()
        };
        let at = |address: &str, identity: Option<Identity>| weft_ir::Endpoint {
            address: address.parse().unwrap(),
            identity,
        };
        let mut known = InUse::default();
        let mut liveness = |config: weft_ir::Endpoint| known.liveness(&config, None);
        let http = liveness(at("10.0.0.1:80", identity("a")));
        let grpc = liveness(at("10.0.0.1:90", identity("a")));
        let others = [
            liveness(at("10.0.0.2:80", identity("a"))),
            // The address has become another pod's.
            liveness(at("10.0.0.1:80", identity("b"))),
            // Where no proxy answers for them, ports are by themselves.
            liveness(at("10.0.0.1:80", None)),
        ];
        http.request_started(0);
        let later = Duration::from_secs(2).as_nanos() as u64;
        assert!(http.is_silent(later) && grpc.is_silent(later));
        assert!(others.iter().all(|liveness| !liveness.is_silent(later)));
        grpc.received(later);
        assert!(!http.is_silent(later));
    }

    #[test]
    fn ports_of_a_pod_are_found_by_its_pulse() {
        let mut known = InUse::default();
        let liveness = Arc::<Liveness>::default();
        let mut endpoint = |port: u16, liveness: &Arc<Liveness>| {
            let (address, identity) = (SocketAddr::from(([10, 0, 0, 1], port)), None);
            let config = weft_ir::Endpoint { address, identity };
            let endpoint = Arc::new(Endpoint::new(&config, None, false, liveness.clone()));
            known
                .endpoints
                .insert((config, None), Arc::downgrade(&endpoint));
            endpoint
        };
        let (http, _grpc) = (endpoint(80, &liveness), endpoint(90, &liveness));
        let _other = endpoint(70, &Arc::default());
        let ports = known.ports(&http);
        let mut ports: Vec<u16> = ports
            .iter()
            .map(|endpoint| endpoint.address.port())
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [80, 90]);
    }
}
