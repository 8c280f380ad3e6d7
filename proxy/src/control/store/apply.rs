//! Updates from the controller: decoded, and put in force as one change.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use weft_api::{Resource, decode, proto};
use weft_ir::{
    Authorizations, Destination, EndpointSet, Gateway, GatewayPort, Patterns, ResourceKey,
    ServicePort, Target, TrustedRoots, Workload,
};

use super::{Settings, Store, StoreState};
use crate::lease::Owner;
use crate::routing::destination::{Resolved, WatchedDestination};
use crate::routing::resolver::Resolver;
use crate::telemetry::labels::{Direction, Parent};
use crate::tls::credentials::CurrentCredentials;
use crate::upstream::Cluster;

/// The most bytes of a resource: some 50,000 endpoints. The controller sends none of more than 12
/// MiB.
const MAX_RESOURCE: usize = 16 << 20;

impl Store {
    /// Applies the valid resources as one change, and returns the others with their reasons.
    /// Decoding may take long, as regular expressions are compiled: call it on a thread that
    /// carries no connections.
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

    /// Puts an update in force: endpoints that come before the routes that lead there, and
    /// endpoints that all go after them.
    fn commit(&self, mut change: DecodedUpdate, refused: &mut Vec<proto::Refused>) {
        let mut state = self.state();
        let is_port = |key: &ResourceKey| matches!(key, ResourceKey::Port(..));
        let changes_ports = !change.ports.is_empty() || change.removed.iter().any(is_port);
        self.publish_authorization(
            &state,
            change.authorization.as_ref(),
            changes_ports,
            &change.removed,
            refused,
        );
        self.set_stream_roots(change.roots.take(), &change.removed);
        if let Some(workload) = &change.workload
            && self.0.upstream.set_locality(&workload.locality)
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
        if changes_ports && change.authorization.is_some() {
            self.settle_authorization(&state);
        }
        for set in emptied {
            let cluster = state.cluster(&set.id, &self.0.upstream);
            cluster.update(&set);
        }
        self.clear_removed(&state, &change.removed);
        if let Some(workload) = change.workload {
            let metrics = &self.0.metrics.limits;
            self.0.limits.set(&workload.limits, metrics);
            self.0.workload.store(Some(Arc::new(workload)));
            self.0.ready.send_replace(true);
        }
        for key in &change.removed {
            state.versions.remove(key);
        }
        state.versions.extend(change.versions);
        state.sweep_clusters();
        // A refused destination is an answer, too: it ends the wait.
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
            // Unusable roots were refused before.
            tracing::error!("roots: {error}");
        }
    }

    /// Empties removed clusters that routes still lead to. Those that no route leads to stay as
    /// they are, for requests in flight.
    fn clear_removed(&self, state: &StoreState, removed: &[ResourceKey]) {
        let destinations = self.0.destinations.load();
        for key in removed {
            let ResourceKey::Endpoints(id) = key else {
                continue;
            };
            let Some(cluster) = state.clusters.get(id).map(Owner::lease) else {
                continue;
            };
            let mut ports = state.ports.values();
            if destinations
                .values()
                .any(|watched| watched.load().refers_to(&cluster))
                || ports.any(|watched| watched.load().refers_to(&cluster))
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
            let watched = known.get(&address).map(|owner| &***owner);
            let resolved = self.resolve(state, destination.target, watched);
            match watched {
                Some(watched) => watched.store(resolved),
                None => {
                    let watched = WatchedDestination::new(address, resolved, now);
                    known.insert(address, Arc::new(Owner::new(watched)));
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
        // Waiters are woken only now that the map is stored.
        drop(answered);
    }

    fn resolve(
        &self,
        state: &mut StoreState,
        target: Target,
        watched: Option<&WatchedDestination>,
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
                    parent: Parent::None,
                    services: HashMap::new(),
                    resolved: HashMap::new(),
                };
                Resolved::Service(resolver.service(&service))
            }
        }
    }
}

/// The valid resources of an update.
#[derive(Default)]
struct DecodedUpdate {
    workload: Option<Workload>,
    gateway: Option<Gateway>,
    ports: Vec<GatewayPort>,
    roots: Option<TrustedRoots>,
    authorization: Option<Authorizations>,
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
            Resource::Authorization(of) => self.authorization = Some(of),
            Resource::Gateway(_) | Resource::Port(_) => {
                return Err("this proxy is a sidecar, and belongs to no gateway".to_owned());
            }
        }
        self.versions.push((key, version));
        Ok(())
    }
}
