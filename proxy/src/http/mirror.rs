//! Mirrored requests: sent beside the request itself, which neither waits for them nor fails with
//! them.
//!
//! Source: Gateway API v1.6.3, `HTTPRequestMirrorFilter`. The specification leaves the Host as it
//! is. A copy is what the filters of the rule (of the backend, for a mirror of the backend) made of
//! the request. Its body follows that of the request as it is read; a mirror that falls behind by
//! more than the copy may hold is given up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::timeout;

use super::runtime::Runtime;
use crate::body::ReplayBuffer;
use crate::routing::destination::ResolvedMirror;
use crate::telemetry::labels::MirrorResult;
use crate::upstream::{Cluster, Unobserved, UpstreamRequest, UpstreamResponse, target};

/// Mirrored requests in flight in the whole proxy; requests beyond this are not mirrored.
const MAX_MIRRORED: usize = 256;
/// Time for a mirrored request, to the end of its response.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a response that are read so that its connection can be used again.
const MAX_DRAINED_BODY: usize = 64 << 10;

/// Slots for mirrored requests in flight. The routes of one namespace may hold as many as are left
/// free: half of all when they are alone, so that other namespaces always find some.
#[derive(Default)]
pub struct MirrorSlots(Mutex<UsedSlots>);

#[derive(Default)]
struct UsedSlots {
    all: usize,
    by_namespace: HashMap<Arc<str>, usize>,
}

/// The slot of one mirrored request, released on drop.
struct MirrorSlot {
    slots: Arc<MirrorSlots>,
    namespace: Arc<str>,
}

impl MirrorSlots {
    /// Returns `None` if the namespace has its share.
    fn reserve(self: &Arc<Self>, namespace: &Arc<str>) -> Option<MirrorSlot> {
        let mut used = self.used();
        let own = used.by_namespace.get(namespace).copied().unwrap_or(0);
        if own >= MAX_MIRRORED - used.all {
            return None;
        }
        used.all += 1;
        used.by_namespace.insert(namespace.clone(), own + 1);
        Some(MirrorSlot {
            slots: self.clone(),
            namespace: namespace.clone(),
        })
    }

    fn used(&self) -> MutexGuard<'_, UsedSlots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MirrorSlot {
    fn drop(&mut self) {
        let mut used = self.slots.used();
        used.all -= 1;
        if let Some(own) = used.by_namespace.get_mut(&self.namespace) {
            *own -= 1;
            if *own == 0 {
                used.by_namespace.remove(&self.namespace);
            }
        }
    }
}

/// The mirrored copies of one request.
#[derive(Default)]
pub struct MirroredRequests(Vec<MirroredRequest>);

struct MirroredRequest {
    cluster: Arc<Cluster>,
    head: http::request::Parts,
    slot: MirrorSlot,
}

impl MirroredRequests {
    /// Samples which of `mirrors` get a copy of the request as it is now.
    pub fn sample(
        &mut self,
        mirrors: &[ResolvedMirror],
        head: &http::request::Parts,
        runtime: &Runtime,
    ) {
        for mirror in mirrors {
            let fraction = mirror.fraction;
            if fastrand::u32(..fraction.denominator().get()) >= fraction.numerator() {
                continue;
            }
            let Some(slot) = runtime.mirrors.reserve(&mirror.namespace) else {
                runtime.metrics.mirrored(MirrorResult::Dropped);
                continue;
            };
            let mut head = clone_head(head);
            target::drop_upgrade(&mut head.headers);
            self.0.push(MirroredRequest {
                cluster: mirror.cluster.clone(),
                head,
                slot,
            });
        }
    }

    /// Sends the copies; `body` is that of the request, none of which has been read.
    pub fn send(self, body: &ReplayBuffer, address: SocketAddr, runtime: &Arc<Runtime>) {
        for MirroredRequest {
            cluster,
            head,
            slot,
        } in self.0
        {
            let (body, replay_buffer) = body.tee();
            let request = UpstreamRequest {
                head,
                body,
                replay_buffer,
                upgrade: false,
                address,
                exclude: Vec::new(),
                client: None,
                mirrored: true,
            };
            let metrics = runtime.metrics.clone();
            tokio::spawn(async move {
                let result = timeout(MIRROR_TIMEOUT, exchange(&cluster, request)).await;
                metrics.mirrored(result.unwrap_or(MirrorResult::Timeout));
                drop(slot);
            });
        }
    }
}

async fn exchange(cluster: &Cluster, request: UpstreamRequest) -> MirrorResult {
    match cluster.send(request, &mut Unobserved).await {
        Ok(upstream) => drain(upstream).await,
        Err(error) => {
            tracing::debug!(cluster = %cluster.name, %error, "a mirror failed");
            MirrorResult::Failed
        }
    }
}

/// Reads the response to its end if that is near.
async fn drain(upstream: UpstreamResponse) -> MirrorResult {
    let UpstreamResponse { response, lease } = upstream;
    let mut body = response.into_body();
    let mut read = 0;
    while read <= MAX_DRAINED_BODY {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len()),
            Some(Err(_)) => return MirrorResult::Failed,
            None => {
                lease.complete();
                break;
            }
        }
    }
    MirrorResult::Answered
}

/// Clones the head without its extensions, which belong to the client's connection.
pub fn clone_head(head: &http::request::Parts) -> http::request::Parts {
    let (mut copy, ()) = http::Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_slots_are_shared_among_namespaces() {
        let slots = Arc::<MirrorSlots>::default();
        let take = |namespace: &str| {
            let namespace = Arc::from(namespace);
            std::iter::from_fn(|| slots.reserve(&namespace)).collect::<Vec<_>>()
        };
        let first = take("first");
        assert_eq!(first.len(), MAX_MIRRORED / 2);
        let second = take("second");
        assert_eq!(second.len(), MAX_MIRRORED / 4);
        assert_eq!(take("third").len(), MAX_MIRRORED / 8);
        assert!(take("first").is_empty());
        drop(first);
        assert!(take("second").len() > 1);
        drop(second);
        let used = slots.used();
        assert!(used.all == 0 && used.by_namespace.is_empty());
    }
}
