//! What the proxy knows: destinations by address, clusters by Service port, and its own workload.
//!
//! Lookups of known addresses take no lock. An unknown one is requested from the controller, for a
//! bounded time. Losing the controller changes nothing that is known. The stream itself is in
//! [`super::subscribe`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_api::proto;
use weft_ir::{
    Gateway, GatewayPort, Identity, Patterns, ResourceKey, ServicePort, Transport, Workload,
};

use crate::authorization::Policies;
use crate::clock::{Clock, Timestamp};
use crate::lease::Owner;
use crate::limits::ServerLimiters;
use crate::routing::destination::WatchedDestination;
use crate::routing::gateway_port::{BoundPorts, WatchedPort};
use crate::telemetry::labels::Direction;
use crate::telemetry::metrics::Metrics;
use crate::tls::credentials::CurrentCredentials;
use crate::upstream::{Cluster, EndpointRegistry};

mod apply;
mod authorization;
mod gateway;
mod idle;
mod lookup;
#[cfg(test)]
mod tests;

pub use lookup::Lookup;

/// What the stream is to send to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Watch(SocketAddr),
    Unwatch(SocketAddr),
    /// A refused resource is in force by now: a new stream is to say what is held.
    Resubscribe,
}

/// The settings of a store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only a workload of this identity is accepted.
    pub identity: Identity,
    /// Takes the roots that the controller sends.
    pub current: CurrentCredentials,
    /// How long a lookup waits for the controller.
    pub wait: Duration,
    /// A destination without connections is forgotten after this.
    pub idle: Duration,
    /// Accepts from the ports of a gateway. `None` in a sidecar, which has none.
    pub ports: Option<BoundPorts>,
}

/// Shared by listeners, stream and admin; clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

/// The known destinations. Connections hold leases of those that they use; a map that replaces
/// another shares the owners.
type Destinations = HashMap<SocketAddr, Arc<Owner<WatchedDestination>>>;

struct StoreInner {
    settings: Settings,
    upstream: Arc<EndpointRegistry>,
    metrics: Arc<Metrics>,
    clock: Clock,
    destinations: ArcSwap<Destinations>,
    workload: ArcSwapOption<Workload>,
    gateway: ArcSwapOption<Gateway>,
    policies: Policies,
    limits: ServerLimiters,
    ready: watch::Sender<bool>,
    /// When the stream was last lost; `None` while it is up.
    lost: Mutex<Option<Instant>>,
    requests: mpsc::UnboundedSender<Request>,
    state: Mutex<StoreState>,
    /// Regular expressions that are compiled already. Locked for decoding, and never by traffic.
    patterns: Mutex<Patterns>,
}

#[derive(Default)]
struct StoreState {
    /// Routes hold leases of the clusters that they lead to.
    clusters: HashMap<ServicePort, Owner<Cluster>>,
    versions: HashMap<ResourceKey, u64>,
    /// Addresses that were requested and not answered yet; dropping the sender wakes the waiters.
    pending: HashMap<SocketAddr, watch::Sender<()>>,
    ports: HashMap<(Transport, u16), Arc<WatchedPort>>,
    /// Ports that could not be bound, each with the version that is in force once it is.
    unbound: BTreeMap<(Transport, u16), (u64, GatewayPort)>,
}

impl Store {
    /// Returns the store, and the requests for the stream.
    pub fn new(
        settings: Settings,
        upstream: Arc<EndpointRegistry>,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::UnboundedReceiver<Request>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let direction = match settings.ports {
            Some(_) => Direction::Gateway,
            None => Direction::Inbound,
        };
        let store = Self(Arc::new(StoreInner {
            settings,
            upstream,
            policies: Policies::new(direction, &metrics.decisions),
            limits: ServerLimiters::default(),
            metrics,
            clock: Clock::start(),
            destinations: ArcSwap::default(),
            workload: ArcSwapOption::empty(),
            gateway: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
            lost: Mutex::new(Some(Instant::now())),
            requests,
            state: Mutex::default(),
            patterns: Mutex::default(),
        }));
        (store, receiver)
    }

    /// Returns the proxy's own workload; `None` until the controller has sent it.
    pub fn workload(&self) -> Option<Arc<Workload>> {
        self.0.workload.load_full()
    }

    /// Returns the policies that the proxy enforces.
    pub fn policies(&self) -> &Policies {
        &self.0.policies
    }

    /// Returns the limits of what the pod's application gets.
    pub fn limits(&self) -> &ServerLimiters {
        &self.0.limits
    }

    /// Resolves once the first configuration has come.
    pub async fn configured(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Returns everything that is held, for the first message of a stream.
    pub fn held(&self) -> Vec<proto::Held> {
        let state = self.state();
        let held = state.versions.iter().map(|(key, version)| proto::Held {
            key: key.to_string(),
            version: *version,
        });
        held.collect()
    }

    /// Returns every address that is held or requested.
    pub fn watched(&self) -> HashSet<SocketAddr> {
        let state = self.state();
        let pending = state.pending.keys().copied();
        let known = self.0.destinations.load();
        known.keys().copied().chain(pending).collect()
    }

    /// Sets whether the stream is up.
    pub fn set_connected(&self, connected: bool) {
        let mut lost = self.lost();
        match (connected, *lost) {
            (true, _) => *lost = None,
            (false, None) => *lost = Some(Instant::now()),
            (false, Some(_)) => {}
        }
        drop(lost);
        self.0.settings.current.set_connected(connected);
        self.0.metrics.config.connected.set(connected.into());
    }

    /// Returns true if the stream is up.
    pub fn connected(&self) -> bool {
        self.lost().is_none()
    }

    fn update_gauges(&self, state: &StoreState) {
        let config = &self.0.metrics.config;
        let destinations = self.0.destinations.load().len();
        config.destinations.set(destinations as i64);
        config.clusters.set(state.clusters.len() as i64);
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patterns(&self) -> MutexGuard<'_, Patterns> {
        let patterns = self.0.patterns.lock();
        patterns.unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreState {
    /// A cluster that is referred to before its endpoints are known has none.
    fn cluster(&mut self, id: &ServicePort, upstream: &Arc<EndpointRegistry>) -> Arc<Cluster> {
        let make = || Owner::of(Cluster::new(id.to_string().into(), upstream.clone()));
        self.clusters.entry(id.clone()).or_insert_with(make).lease()
    }

    /// Removes clusters that nothing refers to and the controller no longer updates.
    fn sweep_clusters(&mut self) {
        let versions = &self.versions;
        self.clusters.retain(|id, cluster| {
            cluster.is_leased() || versions.contains_key(&ResourceKey::Endpoints(id.clone()))
        });
    }
}
