//! What the proxy knows: destinations by address, clusters by Service port, and its own workload.
//!
//! Lookups of known addresses take no lock. An unknown one is asked of the controller and waited for, for a bounded
//! time. Losing the controller changes nothing that is known. The stream itself is in [`super::subscribe`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_api::{Resource, decode, proto};
use weft_ir::{
    Destination, EndpointSet, Gateway, GatewayPort, Identity, Patterns, ResourceKey, ServicePort,
    Target, Transport, TrustedRoots, Workload,
};

use crate::routing::destination::{Resolved, Resolver, WatchedDestination};
use crate::routing::gateway_port::{BoundPorts, WatchedPort};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::requests::Direction;
use crate::tls::credentials::CurrentCredentials;
use crate::upstream::{Cluster, EndpointRegistry};

/// Addresses held and waited for; fewer than a controller watches for one proxy (10,000). Beyond it those that are
/// idle for a tenth of the time give way, and when none is, a lookup is answered as if the controller were away.
const MAX_ADDRESSES: usize = 8_000;
/// A resource may be this large, in bytes: some 50,000 endpoints. The controller sends none of more than 12 MiB.
const MAX_RESOURCE: usize = 16 << 20;

/// What is known of an address.
pub enum Lookup {
    Found(Arc<WatchedDestination>),
    /// The controller does not answer, and nothing is known.
    Unreachable,
}

/// What the stream is to tell the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Watch(SocketAddr),
    Unwatch(SocketAddr),
    /// What was refused is in force by now: a new stream says what is held.
    Resubscribe,
}

/// Times and identity that the store goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only a workload of this identity is taken.
    pub identity: Identity,
    /// Takes up the roots that the controller names.
    pub current: CurrentCredentials,
    /// How long a lookup waits for the controller.
    pub wait: Duration,
    /// A destination without connections is forgotten after this.
    pub idle: Duration,
    /// Who accepts from the ports of a gateway. `None`: the proxy is a sidecar, and has none.
    pub ports: Option<BoundPorts>,
}

/// EndpointRegistry by listeners, stream and admin; clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

struct StoreInner {
    settings: Settings,
    upstream: Arc<EndpointRegistry>,
    metrics: Arc<Metrics>,
    started: Instant,
    destinations: ArcSwap<HashMap<SocketAddr, Arc<WatchedDestination>>>,
    workload: ArcSwapOption<Workload>,
    gateway: ArcSwapOption<Gateway>,
    ready: watch::Sender<bool>,
    /// When the stream was last lost; `None` while it is up.
    lost: Mutex<Option<Instant>>,
    requests: mpsc::UnboundedSender<Request>,
    state: Mutex<StoreState>,
    /// Regular expressions that are compiled already. Locked by whoever decodes, and by nobody who serves.
    patterns: Mutex<Patterns>,
}

#[derive(Default)]
struct StoreState {
    clusters: HashMap<ServicePort, Arc<Cluster>>,
    versions: HashMap<ResourceKey, u64>,
    /// Addresses asked for and not yet answered; dropping the sender wakes those who wait.
    pending: HashMap<SocketAddr, watch::Sender<()>>,
    ports: HashMap<(Transport, u16), Arc<WatchedPort>>,
    /// Ports that could not be bound, with the version that is in force once they are.
    unbound: BTreeMap<(Transport, u16), (u64, GatewayPort)>,
}

impl Store {
    /// The receiver is for the stream.
    pub fn new(
        settings: Settings,
        upstream: Arc<EndpointRegistry>,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::UnboundedReceiver<Request>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let started = Instant::now();
        let store = Self(Arc::new(StoreInner {
            settings,
            upstream,
            metrics,
            started,
            destinations: ArcSwap::default(),
            workload: ArcSwapOption::empty(),
            gateway: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
            lost: Mutex::new(Some(started)),
            requests,
            state: Mutex::default(),
            patterns: Mutex::default(),
        }));
        (store, receiver)
    }

    /// What is at the address; asks the controller where nothing is known.
    pub async fn lookup(&self, address: SocketAddr) -> Lookup {
        if let Some(watched) = self.known(address) {
            return Lookup::Found(watched);
        }
        let Some(mut answered) = self.request_watch(address) else {
            return Lookup::Unreachable;
        };
        // Either error says the same: no more waiting. What counts is what is known then.
        let _ = tokio::time::timeout(self.remaining_wait(), answered.changed()).await;
        match self.known(address) {
            Some(watched) => Lookup::Found(watched),
            None => Lookup::Unreachable,
        }
    }

    fn known(&self, address: SocketAddr) -> Option<Arc<WatchedDestination>> {
        let watched = self.0.destinations.load().get(&address).cloned()?;
        watched.touch(self.now());
        Some(watched)
    }

    /// Has the stream watch the address; `None` when too many are waited for.
    fn request_watch(&self, address: SocketAddr) -> Option<watch::Receiver<()>> {
        let mut state = self.state();
        if let Some(pending) = state.pending.get(&address) {
            return Some(pending.subscribe());
        }
        if self.is_full(&state) {
            drop(state);
            self.forget_unused(self.0.settings.idle / 10);
            state = self.state();
            if self.is_full(&state) {
                return None;
            }
        }
        let (sender, receiver) = watch::channel(());
        if self.0.destinations.load().contains_key(&address) {
            // Answered meanwhile: the sender ends here, so the wait does too.
            return Some(receiver);
        }
        state.pending.insert(address, sender);
        // Without a stream task there is nobody to tell, and the wait runs out.
        let _ = self.0.requests.send(Request::Watch(address));
        Some(receiver)
    }

    fn is_full(&self, state: &StoreState) -> bool {
        self.0.destinations.load().len() + state.pending.len() >= MAX_ADDRESSES
    }

    /// How long to wait for an answer: once the controller has been away for that long, not again for each connection.
    fn remaining_wait(&self) -> Duration {
        let wait = self.0.settings.wait;
        match *self.lost() {
            Some(since) => wait.saturating_sub(since.elapsed()),
            None => wait,
        }
    }

    /// The proxy's own pod; `None` until the controller has told.
    pub fn workload(&self) -> Option<Arc<Workload>> {
        self.0.workload.load_full()
    }

    /// Resolves once the first configuration is there.
    pub async fn configured(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Takes what can be taken as one change, and says what cannot and why. Decoding may take long, as regular
    /// expressions are compiled: call it where no connection waits for the thread.
    pub fn apply(&self, update: proto::Update) -> Vec<proto::Refused> {
        let mut refused = Vec::new();
        let mut change = DecodedUpdate::default();
        let mut patterns = self.patterns();
        for resource in update.resources {
            let key = resource.key.clone();
            if let Err(reason) = change.add(resource, &self.0.settings, &mut patterns) {
                refused.push(proto::Refused { key, reason });
            }
        }
        drop(patterns);
        for key in update.removed {
            match key.parse::<ResourceKey>() {
                Ok(key) => change.removed.push(key),
                Err(error) => refused.push(proto::Refused {
                    key,
                    reason: error.to_string(),
                }),
            }
        }
        self.commit(change, &mut refused);
        self.patterns().prune();
        let config = &self.0.metrics.config;
        config.updates.inc();
        config.refused.inc_by(refused.len() as u64);
        refused
    }

    /// Endpoints that come are in place before the routes that lead there, and those that all go stay until after.
    fn commit(&self, mut change: DecodedUpdate, refused: &mut Vec<proto::Refused>) {
        let mut state = self.state();
        self.set_stream_roots(change.roots.take(), &change.removed);
        if let Some(workload) = &change.workload
            && self.0.upstream.set_place(&workload.place)
        {
            state
                .clusters
                .values()
                .for_each(|cluster| cluster.relocate());
        }
        let (emptied, filled): (Vec<_>, Vec<_>) = change
            .endpoints
            .into_iter()
            .partition(|set| set.endpoints.is_empty());
        for set in filled {
            let cluster = state.cluster(&set.id, &self.0.upstream);
            cluster.update(&set);
        }
        self.publish_destinations(&mut state, change.destinations, &change.removed);
        if let Some(gateway) = change.gateway {
            self.publish_gateway(gateway, &mut change.versions, refused);
        }
        self.publish_ports(
            &mut state,
            change.ports,
            &mut change.versions,
            &change.removed,
            refused,
        );
        for set in emptied {
            let cluster = state.cluster(&set.id, &self.0.upstream);
            cluster.set_endpoints(set.protocol, &[]);
        }
        self.clear_removed(&state, &change.removed);
        if let Some(workload) = change.workload {
            self.0.workload.store(Some(Arc::new(workload)));
            self.0.ready.send_replace(true);
        }
        for key in &change.removed {
            state.versions.remove(key);
        }
        state.versions.extend(change.versions);
        state.sweep_clusters();
        // A refused destination is an answer too: who waits for it is not kept waiting.
        for refused in &*refused {
            if let Ok(ResourceKey::Destination(address)) = refused.key.parse() {
                state.pending.remove(&address);
            }
        }
        self.update_gauges(&state);
    }

    fn set_stream_roots(&self, roots: Option<TrustedRoots>, removed: &[ResourceKey]) {
        let current = &self.0.settings.current;
        if removed.contains(&ResourceKey::Roots) {
            current.clear_stream_roots();
        }
        if let Some(roots) = roots
            && let Err(error) = current.set_stream_roots(&roots)
        {
            // Those that cannot be taken up were refused before.
            tracing::error!("roots: {error}");
        }
    }

    /// Endpoints that are gone for good leave the routes that still lead there with none. Those that only nobody routes
    /// to any longer stay as they are, for the requests that are on their way.
    fn clear_removed(&self, state: &StoreState, removed: &[ResourceKey]) {
        let destinations = self.0.destinations.load();
        for key in removed {
            let ResourceKey::Endpoints(id) = key else {
                continue;
            };
            let Some(cluster) = state.clusters.get(id) else {
                continue;
            };
            let mut ports = state.ports.values();
            if destinations
                .values()
                .any(|watched| watched.load().refers_to(cluster))
                || ports.any(|watched| watched.load().refers_to(cluster))
            {
                let protocol = cluster.members().protocol;
                cluster.set_endpoints(protocol, &[]);
            }
        }
    }

    fn publish_destinations(
        &self,
        state: &mut StoreState,
        destinations: Vec<Destination>,
        removed: &[ResourceKey],
    ) {
        if destinations.is_empty() && removed.is_empty() {
            return;
        }
        let now = self.now();
        let mut known = HashMap::clone(&self.0.destinations.load());
        let mut answered = Vec::new();
        for destination in destinations {
            let address = destination.address;
            let watched = known.get(&address);
            let resolved = self.resolve(state, destination.target, watched);
            match watched {
                Some(watched) => watched.store(resolved),
                None => {
                    known.insert(
                        address,
                        Arc::new(WatchedDestination::new(address, resolved, now)),
                    );
                }
            }
            answered.extend(state.pending.remove(&address));
        }
        for key in removed {
            if let ResourceKey::Destination(address) = key {
                known.remove(address);
            }
        }
        self.0.destinations.store(Arc::new(known));
        // Only now are those woken who wait for what was stored.
        drop(answered);
    }

    fn resolve(
        &self,
        state: &mut StoreState,
        target: Target,
        watched: Option<&Arc<WatchedDestination>>,
    ) -> Resolved {
        match target {
            Target::Unknown => Resolved::Unknown,
            Target::Pod(endpoint) => {
                let held = watched.and_then(|watched| match &**watched.load() {
                    Resolved::Pod(cluster) => Some(cluster.clone()),
                    _ => None,
                });
                let cluster = held.unwrap_or_else(|| {
                    Cluster::new(endpoint.address.to_string().into(), self.0.upstream.clone())
                });
                cluster.set_endpoints(weft_ir::Protocol::Detect, &[endpoint]);
                Resolved::Pod(cluster)
            }
            Target::Service(service) => {
                let mut cluster = |id: &ServicePort| state.cluster(id, &self.0.upstream);
                let mut resolver = Resolver {
                    cluster: &mut cluster,
                    series: &self.0.metrics.requests,
                    direction: Direction::Outbound,
                    services: HashMap::new(),
                    resolved: HashMap::new(),
                };
                Resolved::Service(resolver.service(&service))
            }
        }
    }

    /// Everything held, for the first message of a stream.
    pub fn held(&self) -> Vec<proto::Held> {
        let state = self.state();
        let held = state.versions.iter().map(|(key, version)| proto::Held {
            key: key.to_string(),
            version: *version,
        });
        held.collect()
    }

    /// Every address that is held or asked for.
    pub fn watched(&self) -> HashSet<SocketAddr> {
        let state = self.state();
        let pending = state.pending.keys().copied();
        let known = self.0.destinations.load();
        known.keys().copied().chain(pending).collect()
    }

    /// Tells the store whether the stream is up.
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

    /// Whether the stream is up.
    pub fn connected(&self) -> bool {
        self.lost().is_none()
    }

    fn update_gauges(&self, state: &StoreState) {
        let config = &self.0.metrics.config;
        let destinations = self.0.destinations.load().len();
        config.destinations.set(destinations as i64);
        config.clusters.set(state.clusters.len() as i64);
    }

    /// Seconds since the start.
    fn now(&self) -> u64 {
        self.0.started.elapsed().as_secs()
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
        let cluster = self
            .clusters
            .entry(id.clone())
            .or_insert_with(|| Cluster::new(id.to_string().into(), upstream.clone()));
        cluster.clone()
    }

    /// Clusters go once nothing refers to them and the controller keeps them up to date no longer.
    fn sweep_clusters(&mut self) {
        let versions = &self.versions;
        self.clusters.retain(|id, cluster| {
            Arc::strong_count(cluster) > 1
                || versions.contains_key(&ResourceKey::Endpoints(id.clone()))
        });
    }
}

/// The parts of an update that can be taken.
#[derive(Default)]
struct DecodedUpdate {
    workload: Option<Workload>,
    gateway: Option<Gateway>,
    ports: Vec<GatewayPort>,
    roots: Option<TrustedRoots>,
    destinations: Vec<Destination>,
    endpoints: Vec<EndpointSet>,
    versions: Vec<(ResourceKey, u64)>,
    removed: Vec<ResourceKey>,
}

impl DecodedUpdate {
    fn add(
        &mut self,
        resource: proto::Resource,
        settings: &Settings,
        patterns: &mut Patterns,
    ) -> Result<(), String> {
        let size = resource.encoded_len();
        if size > MAX_RESOURCE {
            return Err(format!(
                "it has {size} bytes, and at most {MAX_RESOURCE} are taken"
            ));
        }
        let own = &settings.identity;
        let decoded = decode::resource_with(resource, patterns);
        let (key, version, resource) = decoded.map_err(|e| e.to_string())?;
        match resource {
            Resource::Workload(workload) if workload.identity != *own => {
                return Err(format!(
                    "the workload is {}, and this proxy is {own}",
                    workload.identity
                ));
            }
            Resource::Workload(workload) => self.workload = Some(workload),
            Resource::Roots(roots) => {
                CurrentCredentials::check(&roots)?;
                self.roots = Some(roots);
            }
            Resource::Destination(destination) => self.destinations.push(destination),
            Resource::Endpoints(set) => self.endpoints.push(set),
            Resource::Gateway(gateway) if settings.ports.is_some() => self.gateway = Some(gateway),
            Resource::Port(port) if settings.ports.is_some() => self.ports.push(port),
            Resource::Gateway(_) | Resource::Port(_) => {
                return Err("this proxy is a sidecar, and belongs to no gateway".to_owned());
            }
        }
        self.versions.push((key, version));
        Ok(())
    }
}

mod gateway;
mod idle;
#[cfg(test)]
mod tests;
