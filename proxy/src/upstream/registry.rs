//! The endpoints in use, each once, however many clusters hold it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use weft_api::alpn;
use weft_ir::{Identity, Locality};

use super::Endpoint;
use super::health::ALL_CHECKS;
use super::liveness::Liveness;
use super::sessions::Sessions;
use crate::clock::{Clock, Timestamp};
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::backend::Backend;

/// The endpoints in use by all clusters of the proxy, and what connecting to them needs.
pub struct EndpointRegistry {
    /// The pod's own addresses: connections to them never leave the pod and meet no inbound proxy.
    own_addresses: Vec<IpAddr>,
    pub(super) tls: Tls,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    known: Mutex<InUse>,
    /// Where the proxy's pod runs.
    pub(super) locality: ArcSwap<Locality>,
    pub(super) sessions: Sessions,
    /// Most requests in flight to one endpoint.
    pub(super) endpoint_requests: u32,
    /// Health checks at one time.
    pub(super) checks: Semaphore,
}

/// Endpoints and liveness in use; unused ones are removed by the next [`EndpointRegistry::sweep`].
#[derive(Default)]
struct InUse {
    endpoints: HashMap<Key, Weak<Endpoint>>,
    liveness: HashMap<(IpAddr, Identity), Weak<Liveness>>,
}

/// An endpoint, and the id of the settings for TLS with the application itself.
type Key = (weft_ir::Endpoint, Option<u64>);

impl InUse {
    /// Returns the liveness that all ports of a pod share when its proxy answers for them.
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

    /// Returns all endpoints of the pod: those that share this one's liveness, itself included.
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
            clock: Clock::start(),
            known: Mutex::default(),
            locality: ArcSwap::default(),
            sessions: Sessions::default(),
            endpoint_requests: u32::MAX,
            checks: Semaphore::new(ALL_CHECKS),
        }
    }

    /// Limits the requests in flight to one endpoint.
    #[must_use]
    pub fn with_endpoint_requests(mut self, most: u32) -> Self {
        self.endpoint_requests = most;
        self
    }

    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Sets where the proxy's pod runs. Returns true if that has changed.
    pub fn set_locality(&self, locality: &Locality) -> bool {
        let moved = **self.locality.load() != *locality;
        if moved {
            self.locality.store(Arc::new(locality.clone()));
        }
        moved
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own_addresses.contains(&address)
    }

    /// Returns true if `address` may be this pod's: one of its known addresses, or of another
    /// interface (Kubernetes names only those of the first). Any address may be, as long as the
    /// pod's are unknown.
    pub fn is_for_pod(&self, address: IpAddr) -> bool {
        self.own_addresses.is_empty() || self.is_own(address) || is_of_interface(address)
    }

    /// Returns the time on the clock of the endpoints.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the plaintext endpoint at `address`: the pod's own application, or one outside the
    /// mesh.
    pub fn plaintext(&self, address: SocketAddr) -> Arc<Endpoint> {
        let identity = None;
        self.endpoint(&weft_ir::Endpoint { address, identity }, None)
    }

    /// Closes connections that are idle for too long or too old. To be called every few seconds.
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

    /// Ejects the endpoint, if the cluster has others.
    pub fn eject(&self, endpoint: &Endpoint) {
        endpoint.eject(self.now());
    }

    /// Ejects every port of the pod, whose proxy is gone.
    pub(super) fn eject_pod(&self, endpoint: &Endpoint) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = known.ports(endpoint);
        drop(known);
        let now = self.now();
        ports.iter().for_each(|port| port.eject(now));
    }

    /// Connects to an ejected endpoint, so that no request has to wait for one that is still down.
    pub(super) fn probe(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let (registry, endpoint) = (self.clone(), endpoint.clone());
        tokio::spawn(async move {
            let found = registry.connect(&endpoint, alpn::H2_FOR_H1).await;
            endpoint.ejected_until.store(Timestamp::START);
            if found.is_err() {
                registry.eject(&endpoint);
            }
        });
    }

    pub(super) fn endpoint(
        &self,
        config: &weft_ir::Endpoint,
        tls: Option<&Arc<Backend>>,
    ) -> Arc<Endpoint> {
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

/// Returns true if an interface other than loopback has the address: only then can a socket be
/// bound to it.
fn is_of_interface(address: IpAddr) -> bool {
    let special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    !special && std::net::UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_on_one_port_applies_to_all_ports_of_pod() {
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
            // The address is now another pod's.
            liveness(at("10.0.0.1:80", identity("b"))),
            // Without a proxy, each port has its own liveness.
            liveness(at("10.0.0.1:80", None)),
        ];
        http.request_started(Timestamp::START);
        let later = Timestamp::START + Duration::from_secs(2);
        assert!(http.is_silent(later) && grpc.is_silent(later));
        assert!(others.iter().all(|liveness| !liveness.is_silent(later)));
        grpc.received(later);
        assert!(!http.is_silent(later));
    }

    #[test]
    fn ports_of_pod_are_found_by_shared_liveness() {
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
