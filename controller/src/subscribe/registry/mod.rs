//! The connected proxies, and which version of each resource is in force at each of them.

mod handle;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_api::encode::RouteDigests;
use weft_ir::{ResourceKey, ServicePort};

pub use handle::StreamHandle;

use super::session::Acked;
use crate::identity::RootFingerprint;
use crate::watch::ObjectKey;
use stream::Stream;

/// The state of one resource at a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// This version is in force.
    InForce(u64),
    /// The proxy rejected this version; an earlier one may be in force. The reason is only logged:
    /// it is the proxy's text, and the registry is read for statuses of other users' objects.
    Refused(u64),
    /// This version was not sent, for this reason; an earlier one may be in force.
    Withheld(u64, String),
}

/// Every open stream.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
    changes: Changes,
    destinations: Changes,
    rejections: Changes,
    /// Whether statuses count the proxies that hold endpoints.
    counts_endpoints: Arc<AtomicBool>,
}

/// A destination that a proxy holds, or that is on its way to it (`held` is `None`).
#[derive(Clone, Debug)]
pub struct Destination {
    pub pod: ObjectKey,
    pub address: SocketAddr,
    pub held: Option<Held>,
}

/// A proxy of a Gateway, and the ports that it has acknowledged or rejected.
#[derive(Clone, Debug)]
pub struct GatewayPod {
    pub pod: ObjectKey,
    pub ports: HashMap<ResourceKey, HeldPort>,
}

/// The pods that hold the endpoints of each Service port; `None`: they are on their way.
pub type EndpointHolders = HashMap<ServicePort, Vec<(ObjectKey, Option<Held>)>>;

/// The state of a port of a Gateway at a proxy.
#[derive(Clone, Debug)]
pub struct HeldPort {
    pub held: Held,
    /// The route digests of the version in force, if this replica sent it.
    pub routes: Option<Arc<RouteDigests>>,
}

/// Notifies of changes of what proxies hold.
#[derive(Clone, Debug)]
struct Changes(Arc<watch::Sender<u64>>);

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    streams: HashMap<u64, Stream>,
    /// The streams of each pod, oldest first; never empty. Excludes replaced streams.
    pods: HashMap<ObjectKey, Vec<u64>>,
}

/// The progress of the connected proxies with a root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootProgress {
    pub connected: usize,
    /// Proxies with the current roots in force.
    pub trusting: usize,
    /// Proxies whose certificate is of the root.
    pub renewed: usize,
    /// Pods without the current roots, and pods without a renewed certificate, sorted.
    pub untrusting: Vec<ObjectKey>,
    pub unrenewed: Vec<ObjectKey>,
}

impl Registry {
    /// Registers a stream of `pod`, which holds `held` from earlier streams, until the handle is
    /// dropped. Beyond `max_streams` the oldest streams of the pod are replaced: they may be of
    /// connections not yet known to be dead.
    pub fn register(
        &self,
        pod: ObjectKey,
        held: &[(ResourceKey, u64)],
        max_streams: usize,
    ) -> StreamHandle {
        let mut inner = self.lock();
        inner.last += 1;
        let id = inner.last;
        let streams = inner.pods.entry(pod.clone()).or_default();
        streams.push(id);
        let surplus = streams.len().saturating_sub(max_streams);
        let surplus: Vec<u64> = streams.drain(..surplus).collect();
        for oldest in surplus {
            if let Some(stream) = inner.streams.get(&oldest) {
                stream.replaced.cancel();
            }
        }
        let (replaced, shed) = (CancellationToken::new(), CancellationToken::new());
        let held = held
            .iter()
            .map(|(key, version)| (key.clone(), Held::InForce(*version)))
            .collect();
        let sent = HashMap::new();
        let stream = Stream {
            pod,
            replaced: replaced.clone(),
            shed: shed.clone(),
            held,
            sent,
            routes: HashMap::new(),
            certificate: None,
        };
        inner.streams.insert(id, stream);
        drop(inner);
        self.notify();
        let registry = self.clone();
        StreamHandle {
            registry,
            id,
            replaced,
            shed,
        }
    }

    /// Returns the pods that hold a resource, with its state at each.
    pub fn holders(&self, key: &ResourceKey) -> Vec<(ObjectKey, Held)> {
        let inner = self.lock();
        let streams = inner.streams.values();
        streams
            .filter_map(|stream| Some((stream.pod.clone(), stream.held.get(key)?.clone())))
            .collect()
    }

    /// Returns every connected pod with the state of a resource there; `None` if it holds none.
    pub fn states(&self, key: &ResourceKey) -> Vec<(ObjectKey, Option<Held>)> {
        let inner = self.lock();
        let streams = inner.streams.values();
        streams
            .map(|stream| (stream.pod.clone(), stream.held.get(key).cloned()))
            .collect()
    }

    /// Returns how many proxies may still use a version other than `versions` of one of the
    /// resources.
    pub fn behind(&self, versions: &HashMap<ResourceKey, Vec<u64>>) -> usize {
        let inner = self.lock();
        let streams = inner.streams.values();
        let behind = streams.filter(|stream| {
            let mut versions = versions.iter();
            versions.any(|(key, versions)| stream.is_behind(key, versions))
        });
        behind.count()
    }

    /// Returns the progress of the proxies towards this version of the roots, and towards
    /// certificates of the root with this fingerprint.
    pub fn root_progress(&self, version: u64, root: RootFingerprint) -> RootProgress {
        let inner = self.lock();
        let mut found = RootProgress {
            connected: inner.pods.len(),
            ..RootProgress::default()
        };
        for stream in inner.streams.values() {
            if stream.held.get(&ResourceKey::Roots) != Some(&Held::InForce(version)) {
                found.untrusting.push(stream.pod.clone());
            }
            if stream.certificate != Some(root) {
                found.unrenewed.push(stream.pod.clone());
            }
        }
        drop(inner);
        for pods in [&mut found.untrusting, &mut found.unrenewed] {
            pods.sort_unstable();
            pods.dedup();
        }
        found.trusting = found.connected.saturating_sub(found.untrusting.len());
        found.renewed = found.connected.saturating_sub(found.unrenewed.len());
        found
    }

    /// Returns every destination of every proxy.
    pub fn destinations(&self) -> Vec<Destination> {
        let inner = self.lock();
        let mut destinations = Vec::new();
        for stream in inner.streams.values() {
            let mut add = |key: &ResourceKey, held: Option<&Held>| {
                if let ResourceKey::Destination(address) = key {
                    destinations.push(Destination {
                        pod: stream.pod.clone(),
                        address: *address,
                        held: held.cloned(),
                    });
                }
            };
            stream
                .held
                .iter()
                .for_each(|(key, held)| add(key, Some(held)));
            let first = |key: &&ResourceKey| !stream.held.contains_key(*key);
            stream
                .sent
                .keys()
                .filter(first)
                .for_each(|key| add(key, None));
        }
        destinations
    }

    /// Returns the pods that hold, or are being sent, the endpoints of Service ports, of which
    /// `wanted` is true.
    pub fn endpoints(&self, wanted: impl Fn(&ServicePort) -> bool) -> EndpointHolders {
        let inner = self.lock();
        let mut all = EndpointHolders::new();
        for stream in inner.streams.values() {
            let held = stream.held.iter().map(|(key, held)| (key, Some(held)));
            let new = stream.sent.keys();
            let new = new.filter(|key| !stream.held.contains_key(*key));
            for (key, held) in held.chain(new.map(|key| (key, None))) {
                if let ResourceKey::Endpoints(id) = key
                    && wanted(id)
                {
                    let holders = all.entry(id.clone()).or_default();
                    holders.push((stream.pod.clone(), held.cloned()));
                }
            }
        }
        all
    }

    /// Sets whether [`Registry::destination_changes`] notifies of endpoints as well, which change
    /// more often than anything else.
    pub fn count_endpoints(&self, counted: bool) {
        self.counts_endpoints.store(counted, Relaxed);
    }

    /// Returns the pods for which `is_gateway` is true, with the state of their ports.
    pub fn gateways(&self, is_gateway: impl Fn(&ObjectKey) -> bool) -> Vec<GatewayPod> {
        let inner = self.lock();
        let streams = inner.streams.values();
        let pods = streams.filter(|stream| is_gateway(&stream.pod));
        pods.map(|stream| GatewayPod {
            pod: stream.pod.clone(),
            ports: stream
                .held
                .iter()
                .filter(|(key, _)| matches!(key, ResourceKey::Port(..)))
                .map(|(key, held)| (key.clone(), stream.held_port(key, held)))
                .collect(),
        })
        .collect()
    }

    /// Notified of each change of what proxies hold.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.0.subscribe()
    }

    /// Notified of each change of the destinations, ports and policies that proxies hold.
    pub fn destination_changes(&self) -> watch::Receiver<u64> {
        self.destinations.0.subscribe()
    }

    /// Notified of each rejected or withheld resource.
    pub fn rejections(&self) -> watch::Receiver<u64> {
        self.rejections.0.subscribe()
    }

    fn notify(&self) {
        self.changes.notify();
        self.destinations.notify();
    }

    /// Ends this many streams, oldest first, so that they connect to another replica.
    pub fn shed(&self, count: usize) {
        let inner = self.lock();
        let mut kept: Vec<_> = inner
            .streams
            .iter()
            .filter(|(_, stream)| !stream.shed.is_cancelled())
            .collect();
        kept.sort_unstable_by_key(|(id, _)| **id);
        for (_, stream) in kept.into_iter().take(count) {
            stream.shed.cancel();
        }
    }

    pub fn streams(&self) -> usize {
        self.lock().streams.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    fn notify(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}
