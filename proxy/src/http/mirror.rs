//! Copies of requests for mirrors: sent beside the request itself, which never waits for them and never fails by them.
//!
//! Source: Gateway API v1.6.3, `HTTPRequestMirrorFilter`. The specification leaves the Host as it is. A copy is what the
//! filters of the rule (of the backend, for a mirror of the backend) made of the request. Its body follows that of the
//! request as it is read; a mirror that falls behind by more than the copy may hold is given up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::timeout;

use super::bodies::Spare;
use super::headers;
use crate::config::resolved::ResolvedMirror;
use crate::listen::Context;
use crate::upstream::{Cluster, UpstreamRequest, UpstreamResponse};

/// Copies under way at one time, of a whole proxy; what is beyond is not mirrored.
const MAX_COPIES: usize = 256;
/// Time for a copy, from its start to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read so that its connection can be used again.
const MAX_ANSWER: usize = 64 << 10;

/// Places for copies that are under way. The routes of one namespace have no more than are free after them: alone half of all,
/// and there are always some for others.
#[derive(Default)]
pub struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    all: usize,
    by_namespace: HashMap<Arc<str>, usize>,
}

/// A copy's place, until it is dropped.
struct Place {
    of: Arc<Places>,
    namespace: Arc<str>,
}

impl Places {
    /// `None`: the namespace has its share.
    fn take(self: &Arc<Self>, namespace: &Arc<str>) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.by_namespace.get(namespace).copied().unwrap_or(0);
        if own >= MAX_COPIES - taken.all {
            return None;
        }
        taken.all += 1;
        taken.by_namespace.insert(namespace.clone(), own + 1);
        Some(Place {
            of: self.clone(),
            namespace: namespace.clone(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= 1;
        if let Some(own) = taken.by_namespace.get_mut(&self.namespace) {
            *own -= 1;
            if *own == 0 {
                taken.by_namespace.remove(&self.namespace);
            }
        }
    }
}

/// The copies of one request.
#[derive(Default)]
pub struct Copies(Vec<Copy>);

struct Copy {
    cluster: Arc<Cluster>,
    head: http::request::Parts,
    place: Place,
}

impl Copies {
    /// Draws which of `mirrors` get a copy of the request as it is now.
    pub fn draw(
        &mut self,
        mirrors: &[ResolvedMirror],
        head: &http::request::Parts,
        context: &Context,
    ) {
        for mirror in mirrors {
            if fastrand::u32(..mirror.denominator) >= mirror.numerator {
                continue;
            }
            let Some(place) = context.mirrors.take(&mirror.namespace) else {
                context.metrics.mirrored("dropped");
                continue;
            };
            let mut head = copy(head);
            headers::drop_upgrade(&mut head.headers);
            self.0.push(Copy {
                cluster: mirror.cluster.clone(),
                head,
                place,
            });
        }
    }

    /// Sends the copies; `body` is that of the request, none of which has been read.
    pub fn send(self, body: &Spare, address: SocketAddr, context: &Arc<Context>) {
        for Copy {
            cluster,
            head,
            place,
        } in self.0
        {
            let (body, spare) = body.copy();
            let request = UpstreamRequest {
                head,
                body,
                spare,
                upgrade: false,
                address,
                exclude: Vec::new(),
                client: None,
            };
            let metrics = context.metrics.clone();
            tokio::spawn(async move {
                let result = timeout(PATIENCE, exchange(&cluster, request)).await;
                metrics.mirrored(result.unwrap_or("timeout"));
                drop(place);
            });
        }
    }
}

async fn exchange(cluster: &Cluster, request: UpstreamRequest) -> &'static str {
    match cluster.send(request, |_| {}).await {
        Ok(upstream) => drain(upstream).await,
        Err(failure) => {
            tracing::debug!(cluster = %cluster.name, %failure, "a mirror failed");
            "failed"
        }
    }
}

/// Reads the answer to its end where that is near.
async fn drain(upstream: UpstreamResponse) -> &'static str {
    let UpstreamResponse { response, lease } = upstream;
    let mut body = response.into_body();
    let mut read = 0;
    while read <= MAX_ANSWER {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len()),
            Some(Err(_)) => return "failed",
            None => {
                lease.complete();
                break;
            }
        }
    }
    "answered"
}

/// Without the extensions, which belong to the client's connection.
pub fn copy(head: &http::request::Parts) -> http::request::Parts {
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
    fn one_namespace_leaves_places_to_others() {
        let places = Arc::<Places>::default();
        let take = |namespace: &str| {
            let namespace = Arc::from(namespace);
            std::iter::from_fn(|| places.take(&namespace)).collect::<Vec<_>>()
        };
        let first = take("first");
        assert_eq!(first.len(), MAX_COPIES / 2);
        let second = take("second");
        assert_eq!(second.len(), MAX_COPIES / 4);
        assert_eq!(take("third").len(), MAX_COPIES / 8);
        assert!(take("first").is_empty());
        drop(first);
        assert!(take("second").len() > 1);
        drop(second);
        let taken = places.taken();
        assert!(taken.all == 0 && taken.by_namespace.is_empty());
    }
}
