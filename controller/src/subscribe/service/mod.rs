//! Moves messages between a proxy's stream and its [`Session`]. A slow proxy delays no other.

mod authorize;
mod messages;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weft_api::proto::mesh_server::Mesh;
use weft_api::proto::{ProxyMessage, Resource, Update};

use super::input::StreamError;
use super::registry::Registry;
use super::session::{MAX_UNACKED, Session};
use super::withdraw::Withdrawal;
use crate::identity::{PeerIdentity, Proven};
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, Snapshots};
use crate::watch::ObjectKey;
use messages::Received;

/// Limits of one proxy's streams.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Watched addresses of one stream.
    pub watches: usize,
    /// Streams of one pod; there is more than one only while an old connection is not yet known to
    /// be dead. The newest are kept.
    pub streams: usize,
    /// The maximum age of a stream; each ends at random between half of it and all of it. Proxies
    /// that connect again spread over the replicas.
    pub age: Duration,
    /// Whether a proxy's address must be an address of its pod.
    pub verify_address: bool,
    /// How long the first message may take.
    pub hello: Duration,
    /// How long the watch may take to show a pod: the proxy may be ahead of it.
    pub pod: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            watches: 10_000,
            streams: 2,
            age: Duration::from_secs(3600),
            verify_address: true,
            hello: Duration::from_secs(10),
            pod: Duration::from_secs(5),
        }
    }
}

/// The service; a clone serves the same streams.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    pub snapshots: Snapshots,
    /// The trusted roots, which every proxy is sent.
    pub roots: Roots,
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// The tasks of open streams, to be awaited after `stop`.
    pub tasks: TaskTracker,
    /// Ends every stream with `UNAVAILABLE`, so that proxies connect to another replica.
    pub stop: CancellationToken,
}

/// The resource of the trusted roots; `None` until it is published.
pub type Roots = watch::Receiver<Option<Arc<Resource>>>;

type Outgoing = mpsc::Sender<Result<Update, Status>>;

#[tonic::async_trait]
impl Mesh for Subscriptions {
    type SubscribeStream = ReceiverStream<Result<Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let peer = request.extensions().get::<PeerIdentity>();
        let peer = peer.and_then(|peer| Some((peer.proven.clone()?, peer.address.ip())));
        let Some((peer, from)) = peer else {
            self.metrics.refused_streams.inc();
            return Err(StreamError::NoCertificate.into());
        };
        // Capacity for every unacknowledged update, for the final status, and for the answer to
        // `Withdraw`: sending never waits.
        let (outgoing, answers) = mpsc::channel(MAX_UNACKED + 2);
        let subscriptions = self.clone();
        self.tasks.spawn(async move {
            let ended = subscriptions
                .serve(&peer, from, request.into_inner(), &outgoing)
                .await;
            let Err(error) = ended else {
                return;
            };
            tracing::info!(peer = %peer.identity, reason = %error, "stream of a proxy ended");
            if error.is_fault() {
                subscriptions.metrics.refused_streams.inc();
            }
            // The client may have disconnected.
            drop(outgoing.try_send(Err(error.into())));
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Counts a stream and its watched addresses in the metrics while it is open.
struct StreamGauge<'a> {
    metrics: &'a Metrics,
    watches: i64,
}

impl<'a> StreamGauge<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.streams.inc();
        Self {
            metrics,
            watches: 0,
        }
    }

    fn watches(&mut self, now: usize) {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.metrics.watched_addresses.inc_by(now - self.watches);
        self.watches = now;
    }
}

impl Drop for StreamGauge<'_> {
    fn drop(&mut self) {
        self.metrics.watched_addresses.dec_by(self.watches);
        self.metrics.streams.dec();
    }
}

impl Subscriptions {
    /// Serves a stream until the proxy ends it (`Ok`), or the controller must.
    async fn serve(
        &self,
        peer: &Proven,
        from: IpAddr,
        mut incoming: Streaming<ProxyMessage>,
        outgoing: &Outgoing,
    ) -> Result<(), StreamError> {
        let mut gauge = StreamGauge::new(&self.metrics);
        let mut snapshots = self.snapshots.clone();
        let opening = async {
            let hello = self.hello(&mut incoming).await?;
            let uid = self.authorize(&peer.identity, from, &hello).await?;
            Ok::<_, StreamError>((hello, uid))
        };
        let (hello, uid) = tokio::select! {
            hello = opening => hello?,
            () = self.stop.cancelled() => return Err(StreamError::Stopping),
            () = outgoing.closed() => return Ok(()),
        };
        let pod = ObjectKey::new(&hello.namespace, &hello.pod);
        tracing::info!(%pod, peer = %peer.identity, version = hello.version, held = hello.held.len(), "proxy connected");
        let registered = self
            .registry
            .register(pod.clone(), &hello.held, self.limits.streams);
        let mut session = Session::new(hello, self.limits.watches)?;
        snapshots.mark_changed();
        let mut roots = self.roots.clone();
        session.set_roots(roots.borrow_and_update().clone());
        let mut withdrawals = JoinSet::new();
        let mut served: Option<Arc<Snapshot>> = None;
        let end_of_life = self.end_of_life(peer, &pod, &uid);
        tokio::pin!(end_of_life);
        loop {
            tokio::select! {
                Some(Ok(withdrawn)) = withdrawals.join_next() => {
                    tracing::info!(%pod, ?withdrawn, "pod withdrawn from traffic");
                    let update = Update { withdrawn: Some(withdrawn), ..Update::default() };
                    // The channel has capacity, unless the proxy acknowledges what it has not read.
                    if let Err(TrySendError::Full(_)) = outgoing.try_send(Ok(update)) {
                        return Err(StreamError::UnreadAck);
                    }
                    continue;
                }
                () = self.stop.cancelled() => return Err(StreamError::Stopping),
                () = registered.replaced() => return Err(StreamError::Replaced(self.limits.streams)),
                () = registered.shed() => return Err(StreamError::Aged),
                reason = &mut end_of_life => return Err(reason),
                () = outgoing.closed() => return Ok(()),
                changed = snapshots.changed() => if changed.is_err() {
                    return Err(StreamError::Stopping);
                },
                Ok(()) = roots.changed() => session.set_roots(roots.borrow_and_update().clone()),
                first = incoming.message() => {
                    match self.receive(first, &mut incoming, &mut session, &registered, &pod).await? {
                        Received::End => return Ok(()),
                        Received::Handled => {}
                        // One at a time: its answer is for all requests that come meanwhile.
                        Received::Withdraw if withdrawals.is_empty() => {
                            withdrawals.spawn(self.withdrawal(&pod).run());
                        }
                        Received::Withdraw => {}
                    }
                }
            }
            gauge.watches(session.watches());
            // A snapshot may have come together with a message.
            let latest = snapshots.borrow_and_update().clone();
            if latest.as_ref().map(Arc::as_ptr) != served.as_ref().map(Arc::as_ptr) {
                session.snapshot_changed();
                served.clone_from(&latest);
            }
            self.send(&mut session, latest.as_deref(), &registered, outgoing)?;
            self.record_withheld(&mut session, &registered, &pod);
        }
    }

    fn withdrawal(&self, pod: &ObjectKey) -> Withdrawal {
        Withdrawal {
            pod: pod.clone(),
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
        }
    }
}
