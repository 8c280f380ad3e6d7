//! The handle by which a stream records what its proxy holds.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio_util::sync::CancellationToken;
use weft_api::encode::RouteDigests;
use weft_ir::ResourceKey;

use super::{Acked, Held, Registry};
use crate::identity::RootFingerprint;

/// A registered stream; removed when dropped.
#[derive(Debug)]
pub struct StreamHandle {
    pub(super) registry: Registry,
    pub(super) id: u64,
    pub(super) replaced: CancellationToken,
    pub(super) shed: CancellationToken,
}

impl StreamHandle {
    /// Resolves when a newer stream of the pod replaces this one.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Resolves when the stream should move to another replica.
    pub async fn shed(&self) {
        self.shed.cancelled().await;
    }

    /// Records resources that are on their way to the proxy.
    pub fn sent(&self, resources: impl Iterator<Item = (ResourceKey, u64)>) {
        if let Some(stream) = self.registry.lock().streams.get_mut(&self.id) {
            stream.sent.extend(resources);
        }
    }

    /// Records the route digests of ports that are on their way to the proxy.
    pub fn sent_routes(&self, ports: impl Iterator<Item = (ResourceKey, u64, Arc<RouteDigests>)>) {
        if let Some(stream) = self.registry.lock().streams.get_mut(&self.id) {
            for (key, version, routes) in ports {
                stream
                    .routes
                    .entry(key)
                    .or_default()
                    .push((version, routes));
            }
        }
    }

    /// Records that the proxy's certificate is of the root with this fingerprint.
    pub fn certificate(&self, root: RootFingerprint) {
        if let Some(stream) = self.registry.lock().streams.get_mut(&self.id) {
            stream.certificate = Some(root);
        }
        self.registry.changes.notify();
    }

    /// Records key, version and reason of resources that were not sent.
    pub fn withheld(&self, resources: impl IntoIterator<Item = (ResourceKey, u64, String)>) {
        if let Some(stream) = self.registry.lock().streams.get_mut(&self.id) {
            for (key, version, reason) in resources {
                stream.held.insert(key, Held::Withheld(version, reason));
            }
        }
        self.registry.notify();
        self.registry.rejections.notify();
    }

    pub fn record(&self, acked: Acked) {
        let mut inner = self.registry.lock();
        let Some(stream) = inner.streams.get_mut(&self.id) else {
            return;
        };
        let endpoints = self.registry.counts_endpoints.load(Relaxed);
        let is_destination = |key: &ResourceKey| match key {
            ResourceKey::Destination(_) | ResourceKey::Port(..) | ResourceKey::Authorization => {
                true
            }
            ResourceKey::Endpoints(_) => endpoints,
            _ => false,
        };
        let destinations = acked.in_force.iter().any(|(key, _)| is_destination(key));
        let refused = !acked.refused.is_empty();
        for (key, version) in acked.in_force {
            if version.is_none() || stream.sent.get(&key) == version.as_ref() {
                stream.sent.remove(&key);
            }
            match version {
                Some(version) => {
                    if let Some(sent) = stream.routes.get_mut(&key) {
                        let place = sent.iter().rposition(|(one, _)| *one == version);
                        sent.drain(..place.unwrap_or_default());
                    }
                    stream.held.insert(key, Held::InForce(version));
                }
                None => {
                    stream.routes.remove(&key);
                    stream.held.remove(&key);
                }
            }
        }
        for (key, version, _) in acked.refused {
            if stream.sent.get(&key) == Some(&version) {
                stream.sent.remove(&key);
            }
            stream.held.insert(key, Held::Refused(version));
        }
        drop(inner);
        self.registry.changes.notify();
        if destinations {
            self.registry.destinations.notify();
        }
        if refused {
            self.registry.rejections.notify();
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        let Some(stream) = inner.streams.remove(&self.id) else {
            return;
        };
        if let Some(streams) = inner.pods.get_mut(&stream.pod) {
            streams.retain(|id| *id != self.id);
            if streams.is_empty() {
                inner.pods.remove(&stream.pod);
            }
        }
        drop(inner);
        self.registry.notify();
    }
}
