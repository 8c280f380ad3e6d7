//! The stream of configuration: says what is held and watched, applies what the controller sends,
//! and acknowledges it.
//!
//! Losing the stream changes nothing that is known: it is opened again, for ever, with growing
//! pauses.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use weft_api::proto;
use weft_api::proto::mesh_client::MeshClient;
use weft_api::proto::proxy_message::Kind;
use weft_ir::{Identity, ResourceKey};

use super::channel::{self, Address, Backoff, ConnectError};
use super::store::{Request, Store};
use super::withdrawal::Withdrawal;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::credentials::CurrentCredentials;
use crate::tls::trusted::Root;

/// The most bytes of an update. A larger one ends the stream; a resource of more than 16 MiB in a
/// smaller one is refused by itself ([`Store::apply`]).
const MAX_UPDATE: usize = 64 << 20;
/// How long the controller may take to accept the stream.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// What the stream needs.
pub struct Stream {
    pub controller: Address,
    pub controller_identity: Identity,
    pub namespace: String,
    pub pod: String,
    pub tls: Tls,
    pub current: CurrentCredentials,
    pub store: Store,
    pub requests: mpsc::UnboundedReceiver<Request>,
    pub withdrawal: Withdrawal,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error(
        "the controller refuses this proxy's certificate, a new one is asked for: {0}; check whether the root in the \
         Secret weft-ca was replaced"
    )]
    CertificateRefused(String),
    #[error("the controller gave no answer in {SUBSCRIBE_TIMEOUT:?}")]
    Silent,
    #[error("the controller ended the stream ({code:?}): {message}")]
    Status { code: tonic::Code, message: String },
    #[error("the controller ended the stream: {0}")]
    EndedByController(String),
    #[error("the controller closed the stream")]
    Closed,
    #[error("begun anew, as what was refused is in force by now")]
    Resubscribe,
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Status {
            code: status.code(),
            message: message_of(&status),
        }
    }
}

impl StreamError {
    /// Returns true if another certificate may help.
    fn is_about_certificate(&self) -> bool {
        match self {
            Self::CertificateRefused(_) => true,
            Self::Status { code, .. } => *code == tonic::Code::Unauthenticated,
            _ => false,
        }
    }
}

/// Converts the status that ended a stream. One of the controller's own has no source here.
fn ended(status: tonic::Status) -> StreamError {
    let said = std::error::Error::source(&status).is_none();
    if said && status.code() == tonic::Code::Unavailable {
        return StreamError::EndedByController(message_of(&status));
    }
    status.into()
}

fn message_of(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), channel::causes(source)),
        None => status.message().to_owned(),
    }
}

type Outgoing = mpsc::UnboundedSender<proto::ProxyMessage>;

impl Stream {
    /// Runs until dropped, from the first certificate on.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        self.current.wait_present().await;
        loop {
            let begun = Instant::now();
            let shown = self.current.load_full();
            let error = match self.session().await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let stable = begun.elapsed() >= STABLE_AFTER;
            if stable {
                backoff.reset();
            }
            let pause = backoff.pause();
            if stable && matches!(error, StreamError::EndedByController(_)) {
                // Requests meanwhile go on the next stream, which another replica accepts in a
                // moment.
                tracing::info!(retry_in = ?pause, "{error}");
            } else {
                self.store.set_connected(false);
                tracing::warn!(
                    retry_in = ?pause,
                    "no configuration stream, what is known stays in force: {error}"
                );
            }
            if let Some(shown) = &shown
                && error.is_about_certificate()
            {
                self.current.mark_refused(shown);
            }
            // With another certificate, or other roots, a new attempt may succeed at once.
            if timeout(pause, self.current.wait_replaced(shown.as_ref()))
                .await
                .is_ok()
            {
                backoff.reset();
            }
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible, StreamError> {
        self.metrics.config.connects.inc();
        let (outgoing, mut watched) = self.first_messages();
        let mut withdraw = self.withdrawal.requests();
        let mut updates = self.subscribe(outgoing.1).await?;
        let outgoing = outgoing.0;
        if withdraw.pending() {
            send(&outgoing, Kind::Withdraw(proto::Withdraw {}))?;
        }
        self.store.set_connected(true);
        tracing::info!(controller = %self.controller, "configuration stream is up");
        let mut certificate = CertificateReport::default();
        let mut changes = self.current.changes();
        loop {
            tokio::select! {
                update = updates.message() => {
                    let update = update.map_err(ended)?.ok_or(StreamError::Closed)?;
                    certificate.supported = certificate.supported || has_roots(&update);
                    self.apply(update, &outgoing).await?;
                    certificate.report(&self.current, &outgoing)?;
                }
                // The sender lives in `current`: waiting cannot fail.
                _ = changes.changed() => certificate.report(&self.current, &outgoing)?,
                () = withdraw.next() => send(&outgoing, Kind::Withdraw(proto::Withdraw {}))?,
                request = self.requests.recv() => {
                    if request == Some(Request::Resubscribe) {
                        return Err(StreamError::Resubscribe);
                    }
                    // The store, which sends requests, is held here: the channel does not end.
                    if let Some(kind) = request.and_then(|r| message(r, &mut watched)) {
                        send(&outgoing, kind)?;
                    }
                }
            }
        }
    }

    /// Returns the first messages of every stream, and the addresses that they watch.
    fn first_messages(
        &mut self,
    ) -> (
        (Outgoing, mpsc::UnboundedReceiver<proto::ProxyMessage>),
        HashSet<SocketAddr>,
    ) {
        // What was requested until now is among the addresses that are watched below.
        while self.requests.try_recv().is_ok() {}
        let watched = self.store.watched();
        let hello = Kind::Hello(proto::Hello {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            held: self.store.held(),
        });
        let watches = watched.iter().map(|address| watch(*address));
        let (sender, receiver) = mpsc::unbounded_channel();
        for kind in std::iter::once(hello).chain(watches) {
            // The receiver is right here.
            let _ = send(&sender, kind);
        }
        ((sender, receiver), watched)
    }

    async fn subscribe(
        &self,
        messages: mpsc::UnboundedReceiver<proto::ProxyMessage>,
    ) -> Result<Streaming<proto::Update>, StreamError> {
        let tls = self
            .tls
            .controller_config(&self.controller_identity, self.current.roots())?;
        let (channel, refused) = channel::connect(&self.controller, tls).await?;
        let mut client = MeshClient::new(channel).max_decoding_message_size(MAX_UPDATE);
        let begun = client.subscribe(UnboundedReceiverStream::new(messages));
        let begun = timeout(SUBSCRIBE_TIMEOUT, begun)
            .await
            .map_err(|_| StreamError::Silent)?;
        match begun {
            Ok(updates) => Ok(updates.into_inner()),
            Err(status) if refused.get() => {
                Err(StreamError::CertificateRefused(message_of(&status)))
            }
            Err(status) => Err(status.into()),
        }
    }

    async fn apply(&self, update: proto::Update, outgoing: &Outgoing) -> Result<(), StreamError> {
        if let Some(withdrawn) = update.withdrawn {
            tracing::info!(?withdrawn, "answer to the withdrawal");
            self.withdrawal.set_answer(withdrawn);
            return Ok(());
        }
        let nonce = update.nonce;
        let store = self.store.clone();
        // Off the threads that carry connections: decoding compiles regular expressions.
        let applied = tokio::task::spawn_blocking(move || store.apply(update)).await;
        let refused = applied.map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => StreamError::Closed,
        })?;
        for one in &refused {
            tracing::warn!(key = %one.key, "refused a resource: {}", one.reason);
        }
        send(outgoing, Kind::Ack(proto::Ack { nonce, refused }))
    }
}

/// What this stream has reported of the certificate's root.
#[derive(Default)]
struct CertificateReport {
    /// Whether the controller sends roots itself: one that does not would end the stream for an
    /// unknown message.
    supported: bool,
    root: Option<Root>,
}

impl CertificateReport {
    fn report(
        &mut self,
        current: &CurrentCredentials,
        outgoing: &Outgoing,
    ) -> Result<(), StreamError> {
        let root = current.load().as_ref().and_then(|c| c.root.clone());
        if !self.supported || root == self.root {
            return Ok(());
        }
        let der = root.as_ref().map_or(&[][..], |root| root);
        let in_force = proto::CertificateInForce {
            root: der.to_vec().into(),
        };
        self.root = root;
        send(outgoing, Kind::Certificate(in_force))
    }
}

fn has_roots(update: &proto::Update) -> bool {
    let mut resources = update.resources.iter();
    resources.any(|one| matches!(one.key.parse(), Ok(ResourceKey::Roots)))
}

fn send(outgoing: &Outgoing, kind: Kind) -> Result<(), StreamError> {
    let message = proto::ProxyMessage { kind: Some(kind) };
    outgoing.send(message).map_err(|_| StreamError::Closed)
}

fn watch(address: SocketAddr) -> Kind {
    Kind::Watch(proto::Watch {
        address: address.to_string(),
    })
}

/// Returns the message for a request of the store, unless the controller knows already.
fn message(request: Request, watched: &mut HashSet<SocketAddr>) -> Option<Kind> {
    match request {
        Request::Watch(address) => watched.insert(address).then(|| watch(address)),
        Request::Unwatch(address) => watched.remove(&address).then(|| {
            Kind::Unwatch(proto::Unwatch {
                address: address.to_string(),
            })
        }),
        Request::Resubscribe => None,
    }
}
