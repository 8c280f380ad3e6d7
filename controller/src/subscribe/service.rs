//! Moves messages between a proxy's stream and its [`Session`]. A slow proxy holds up nobody else.

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

use super::input::{self, Hello, Input, Refusal};
use super::registry::{Registered, Registry};
use super::session::{Acked, MAX_UNACKED, Session};
use super::withdraw::Withdrawal;
use crate::identity::pod::{Claim, PodCheck, other_account};
use crate::metrics::Metrics;
use crate::rotation;
use crate::server::{PeerIdentity, Proven, passed};
use crate::snapshot::{Snapshot, Snapshots};
use crate::watch::ObjectKey;

/// Messages that are taken in before the answer to them is made.
const BATCH: usize = 256;

/// What one proxy may ask of the controller.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Addresses on one stream.
    pub watches: usize,
    /// Streams of one pod: more than one only while an old connection is not yet known to be dead. The newest are kept.
    pub streams: usize,
    /// How long a stream may last, and half of it at least: proxies that connect again spread over the replicas.
    pub age: Duration,
    /// Whether a proxy's address must be one of its pod's.
    pub verify_address: bool,
    /// How long `Hello` may take to come.
    pub hello: Duration,
    /// How long a pod may take to be seen here: the proxy may be faster than the watch.
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
    /// The roots that every proxy is told.
    pub roots: Roots,
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// Open streams, to be awaited after `stop`.
    pub tasks: TaskTracker,
    /// Ends every stream with `UNAVAILABLE`, so that proxies connect to another replica.
    pub stop: CancellationToken,
}

/// What a batch of messages came to, beside the session's state.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// The proxy has not ended the stream.
    open: bool,
    withdraw: bool,
}

/// The roots' resource as it changes; `None` until there is one.
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
            return Err(Refusal::NoCertificate.into());
        };
        // Room for every update that may be on its way, and the status at the end: sending never waits.
        // One more for the answer to `Withdraw`, which a proxy that reads takes before the next.
        let (outgoing, answers) = mpsc::channel(MAX_UNACKED + 2);
        let subscriptions = self.clone();
        self.tasks.spawn(async move {
            let ended = subscriptions
                .serve(&peer, from, request.into_inner(), &outgoing)
                .await;
            let Err(refusal) = ended else {
                return;
            };
            tracing::info!(peer = %peer.identity, reason = %refusal, "stream of a proxy ended");
            if refusal.is_fault() {
                subscriptions.metrics.refused_streams.inc();
            }
            // A client that is gone needs no status.
            drop(outgoing.try_send(Err(refusal.into())));
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Counts a stream and its watches for as long as it is open.
struct Counted<'a> {
    metrics: &'a Metrics,
    watches: i64,
}

impl<'a> Counted<'a> {
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

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.watched_addresses.dec_by(self.watches);
        self.metrics.streams.dec();
    }
}

impl Subscriptions {
    /// Until the proxy ends the stream (`Ok`), or it has to be ended.
    async fn serve(
        &self,
        peer: &Proven,
        from: IpAddr,
        mut incoming: Streaming<ProxyMessage>,
        outgoing: &Outgoing,
    ) -> Result<(), Refusal> {
        let mut counted = Counted::new(&self.metrics);
        let mut snapshots = self.snapshots.clone();
        let opening = async {
            let hello = self.hello(&mut incoming).await?;
            let uid = self.authorize(&peer.identity, from, &hello).await?;
            Ok::<_, Refusal>((hello, uid))
        };
        let (hello, uid) = tokio::select! {
            hello = opening => hello?,
            () = self.stop.cancelled() => return Err(Refusal::Stopping),
            () = outgoing.closed() => return Ok(()),
        };
        let pod = ObjectKey::new(&hello.namespace, &hello.pod);
        tracing::info!(%pod, peer = %peer.identity, version = hello.version, held = hello.held.len(), "proxy connected");
        let registered = self
            .registry
            .enter(pod.clone(), &hello.held, self.limits.streams);
        let mut session = Session::new(hello, self.limits.watches)?;
        snapshots.mark_changed();
        let mut roots = self.roots.clone();
        session.set_roots(roots.borrow_and_update().clone());
        let mut withdrawals = JoinSet::new();
        let mut served: Option<Arc<Snapshot>> = None;
        let outlived = self.outlived(peer.until, &pod, &uid);
        tokio::pin!(outlived);
        loop {
            tokio::select! {
                Some(Ok(withdrawn)) = withdrawals.join_next() => {
                    tracing::info!(%pod, ?withdrawn, "withdrawn");
                    let update = Update { withdrawn: Some(withdrawn), ..Update::default() };
                    // As for any other update: there is room, or the proxy is gone.
                    if let Err(TrySendError::Full(_)) = outgoing.try_send(Ok(update)) {
                        return Err(Refusal::UnreadAck);
                    }
                    continue;
                }
                () = self.stop.cancelled() => return Err(Refusal::Stopping),
                () = registered.replaced() => return Err(Refusal::Replaced(self.limits.streams)),
                () = registered.shed() => return Err(Refusal::Aged),
                reason = &mut outlived => return Err(reason),
                () = outgoing.closed() => return Ok(()),
                changed = snapshots.changed() => if changed.is_err() {
                    return Err(Refusal::Stopping);
                },
                Ok(()) = roots.changed() => session.set_roots(roots.borrow_and_update().clone()),
                first = incoming.message() => {
                    let taken = self.take_in(first, &mut incoming, &mut session, &registered, &pod).await?;
                    if !taken.open {
                        return Ok(());
                    }
                    // One at a time: its answer is the answer to all that ask meanwhile.
                    if taken.withdraw && withdrawals.is_empty() {
                        withdrawals.spawn(self.withdrawal(&pod).run());
                    }
                }
            }
            counted.watches(session.watches());
            // Whatever woke this: a snapshot that came together with a message counts as seen from here on.
            let latest = snapshots.borrow_and_update().clone();
            if latest.as_ref().map(Arc::as_ptr) != served.as_ref().map(Arc::as_ptr) {
                session.snapshot_changed();
                served.clone_from(&latest);
            }
            self.send(&mut session, latest.as_deref(), &registered, outgoing)?;
            self.record_withheld(&mut session, &registered, &pod);
        }
    }

    async fn hello(&self, incoming: &mut Streaming<ProxyMessage>) -> Result<Hello, Refusal> {
        let seconds = self.limits.hello.as_secs();
        let first = timeout(self.limits.hello, incoming.message()).await;
        let first = first.map_err(|_| Refusal::NoHello(seconds))?;
        input::hello(first.map_err(|error| unreadable(&error))?, seconds)
    }

    /// The UID of the pod, if the certificate speaks for it. Waits a little for a pod, or a cluster, not seen yet.
    async fn authorize(
        &self,
        account: &Identity,
        from: IpAddr,
        hello: &Hello,
    ) -> Result<Arc<str>, Refusal> {
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

    /// Resolves when a stream has to end of which nothing is wrong in itself.
    async fn outlived(&self, until: OffsetDateTime, pod: &ObjectKey, uid: &Arc<str>) -> Refusal {
        let age = self.limits.age.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            () = sleep(age) => Refusal::Aged,
            () = passed(until) => Refusal::CertificateEnded,
            () = self.gone(pod, uid) => Refusal::PodGone(pod.to_string()),
        }
    }

    /// Resolves when the pod has not been there for as long as it may take to be seen.
    async fn gone(&self, pod: &ObjectKey, uid: &Arc<str>) {
        let mut snapshots = self.snapshots.clone();
        let mut since = None;
        loop {
            let is_there = snapshots
                .borrow_and_update()
                .as_ref()
                .is_none_or(|snapshot| {
                    let found = snapshot.encoder.mesh().pod(&pod.namespace, &pod.name);
                    found.is_some_and(|found| found.uid == uid)
                });
            since = match since {
                Some(since) if !is_there => Some(since),
                _ => (!is_there).then(Instant::now),
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

    /// Takes in `first` and what has arrived behind it.
    async fn take_in(
        &self,
        first: Result<Option<ProxyMessage>, Status>,
        incoming: &mut Streaming<ProxyMessage>,
        session: &mut Session,
        registered: &Registered,
        pod: &ObjectKey,
    ) -> Result<Taken, Refusal> {
        let mut taken = Taken::default();
        let mut next = first;
        for count in 1.. {
            let Some(message) = next.map_err(|error| unreadable(&error))? else {
                return Ok(taken);
            };
            let input = input::input(message)?;
            taken.withdraw |= input == Input::Withdraw;
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
        taken.open = true;
        Ok(taken)
    }

    fn record(&self, acked: Acked, registered: &Registered, pod: &ObjectKey) {
        for (key, version, reason) in &acked.refused {
            self.metrics.nacks.inc();
            tracing::warn!(
                %pod, %key, version, ?reason,
                "a proxy refused a resource and keeps what it had: check that its version fits the controller's"
            );
        }
        registered.record(acked);
    }

    /// What is too large to be sent: the proxy keeps what it had, and the routes' statuses say so.
    fn record_withheld(&self, session: &mut Session, registered: &Registered, pod: &ObjectKey) {
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
        registered: &Registered,
        outgoing: &Outgoing,
    ) -> Result<(), Refusal> {
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
                // There is room for all that may be unanswered.
                Err(TrySendError::Full(_)) => return Err(Refusal::UnreadAck),
                // The proxy is gone, which ends the stream in `serve`.
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        Ok(())
    }
}

fn unreadable(error: &Status) -> Refusal {
    Refusal::Unreadable(error.message().chars().take(256).collect())
}
