//! Moves messages between a proxy's stream and its [`Session`]. A slow proxy delays no other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weft_api::proto::mesh_server::Mesh;
use weft_api::proto::{ProxyMessage, Resource, Update};
use weft_ir::{Identity, ResourceKey};

use super::input::{self, Hello, Input, StreamError};
use super::registry::{Registry, StreamHandle};
use super::session::{Acked, MAX_UNACKED, Session};
use super::withdraw::Withdrawal;
use crate::identity::pod::{Claim, PodCheck, other_account};
use crate::metrics::Metrics;
use crate::rotation;
use crate::server::{PeerIdentity, Proven, passed};
use crate::snapshot::{Snapshot, Snapshots};
use crate::watch::ObjectKey;

/// The maximum number of messages that are handled before the next update is made.
const BATCH: usize = 256;

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

/// The result of a batch of messages, beside the session's state.
#[derive(Clone, Copy, Debug, Default)]
struct Received {
    /// False if the proxy has ended the stream.
    open: bool,
    withdraw: bool,
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
        let end_of_life = self.end_of_life(peer.until, &pod, &uid);
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
                    let received = self.receive(first, &mut incoming, &mut session, &registered, &pod).await?;
                    if !received.open {
                        return Ok(());
                    }
                    // One at a time: its answer is for all requests that come meanwhile.
                    if received.withdraw && withdrawals.is_empty() {
                        withdrawals.spawn(self.withdrawal(&pod).run());
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

    async fn hello(&self, incoming: &mut Streaming<ProxyMessage>) -> Result<Hello, StreamError> {
        let seconds = self.limits.hello.as_secs();
        let first = timeout(self.limits.hello, incoming.message()).await;
        let first = first.map_err(|_| StreamError::NoHello(seconds))?;
        input::hello(first.map_err(|error| undecodable(&error))?, seconds)
    }

    /// Returns the UID of the pod, if the certificate is of its account. Waits for a pod that the
    /// watch does not show yet.
    async fn authorize(
        &self,
        account: &Identity,
        from: IpAddr,
        hello: &Hello,
    ) -> Result<Arc<str>, StreamError> {
        if account.namespace() != hello.namespace {
            let pod = format!("{}/{}", hello.namespace, hello.pod);
            return Err(other_account(account, pod).into());
        }
        let claim = Claim {
            namespace: &hello.namespace,
            pod: &hello.pod,
            uid: None,
            node: None,
            account: Some(account),
            address: from,
        };
        let check = PodCheck {
            snapshots: self.snapshots.clone(),
            address: self.limits.verify_address,
            patience: self.limits.pod,
        };
        Ok(check.confirm(&claim).await?)
    }

    /// Resolves when a correct stream must end: by its age, its certificate or its pod.
    async fn end_of_life(
        &self,
        until: OffsetDateTime,
        pod: &ObjectKey,
        uid: &Arc<str>,
    ) -> StreamError {
        let age = self.limits.age.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            () = sleep(age) => StreamError::Aged,
            () = passed(until) => StreamError::CertificateEnded,
            () = self.gone(pod, uid) => StreamError::PodGone(pod.to_string()),
        }
    }

    /// Resolves when the pod has been absent for as long as the watch may take to show it.
    async fn gone(&self, pod: &ObjectKey, uid: &Arc<str>) {
        let mut snapshots = self.snapshots.clone();
        let mut since = None;
        loop {
            let exists = snapshots
                .borrow_and_update()
                .as_ref()
                .is_none_or(|snapshot| {
                    let found = snapshot.encoder.mesh().pod(&pod.namespace, &pod.name);
                    found.is_some_and(|found| found.uid == uid)
                });
            since = match since {
                Some(since) if !exists => Some(since),
                _ => (!exists).then(Instant::now),
            };
            let end = since.unwrap_or_else(Instant::now) + self.limits.pod;
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    // The controller is stopping, which ends the stream elsewhere.
                    std::future::pending::<()>().await;
                },
                () = sleep_until(end), if since.is_some() => return,
            }
        }
    }

    fn withdrawal(&self, pod: &ObjectKey) -> Withdrawal {
        Withdrawal {
            pod: pod.clone(),
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
        }
    }

    /// Handles `first` and the messages that have arrived after it.
    async fn receive(
        &self,
        first: Result<Option<ProxyMessage>, Status>,
        incoming: &mut Streaming<ProxyMessage>,
        session: &mut Session,
        registered: &StreamHandle,
        pod: &ObjectKey,
    ) -> Result<Received, StreamError> {
        let mut received = Received::default();
        let mut next = first;
        for count in 1.. {
            let Some(message) = next.map_err(|error| undecodable(&error))? else {
                return Ok(received);
            };
            let input = input::input(message)?;
            received.withdraw |= input == Input::Withdraw;
            if let Input::Certificate(root) = &input {
                registered.certificate(rotation::fingerprint(root));
            }
            if let Some(acked) = session.receive(input)? {
                self.record(acked, registered, pod);
            }
            if count == BATCH {
                break;
            }
            next = tokio::select! {
                biased;
                message = incoming.message() => message,
                () = std::future::ready(()) => break,
            };
        }
        received.open = true;
        Ok(received)
    }

    fn record(&self, acked: Acked, registered: &StreamHandle, pod: &ObjectKey) {
        for (key, version, reason) in &acked.refused {
            self.metrics.nacks.inc();
            tracing::warn!(
                %pod, %key, version, ?reason,
                "a proxy rejected a resource and keeps the earlier version; check that its version \
                 fits the controller's"
            );
        }
        registered.record(acked);
    }

    /// Records resources that are too large to be sent: the proxy keeps the earlier version, and
    /// the statuses of routes name the reason.
    fn record_withheld(&self, session: &mut Session, registered: &StreamHandle, pod: &ObjectKey) {
        let withheld = session.withheld();
        if withheld.is_empty() {
            return;
        }
        for (key, version, reason) in &withheld {
            self.metrics.withheld.inc();
            tracing::error!(%pod, %key, version, "a resource was withheld: {reason}");
        }
        registered.withheld(withheld);
    }

    fn send(
        &self,
        session: &mut Session,
        snapshot: Option<&Snapshot>,
        registered: &StreamHandle,
        outgoing: &Outgoing,
    ) -> Result<(), StreamError> {
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        while let Some(update) = session.next_update(&snapshot.encoder) {
            self.metrics.updates.inc();
            let resources = update.resources.iter();
            let resources = resources
                .filter_map(|one| Some((one.key.parse::<ResourceKey>().ok()?, one.version)));
            registered.sent(resources.clone());
            if let Some(gateway) = session.gateway_of(&snapshot.encoder) {
                let ports = resources.filter_map(|(key, version)| {
                    let routes = Arc::clone(gateway.routes.get(&key)?);
                    Some((key, version, routes))
                });
                registered.sent_routes(ports);
            }
            match outgoing.try_send(Ok(update)) {
                Ok(()) => {}
                // The channel has capacity for all unacknowledged updates.
                Err(TrySendError::Full(_)) => return Err(StreamError::UnreadAck),
                // The proxy has disconnected, which ends the stream in `serve`.
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        Ok(())
    }
}

fn undecodable(error: &Status) -> StreamError {
    StreamError::Unreadable(error.message().chars().take(256).collect())
}
