//! Serves HTTP on an accepted connection, within limits, until it ends or the process does.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::delivery;
use super::response_body::Response;
use crate::body::Incoming;
use crate::drain::DrainWatch;
use crate::net::linger::Lingering;
use crate::telemetry::error_type::ErrorType;

mod http1;
mod http2;

/// The time for a client to receive GOAWAY when its connection is closed for its resets.
const RESET_GRACE: Duration = Duration::from_millis(100);

/// A request as it comes from a client.
pub type Request = http::Request<Incoming>;

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error("the client answered no ping")]
    Silent,
}

impl ServeError {
    /// Returns true if what the client sent is no HTTP/1.1.
    pub fn is_parse(&self) -> bool {
        matches!(self, Self::Http1(error) if error.is_parse())
    }

    /// Returns true if the client was silent for too long.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Http1(error) => error.is_timeout(),
            Self::Http2(_) => false,
            Self::Silent => true,
        }
    }
}

/// Handles the requests of one connection.
pub trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, request: Request) -> impl Future<Output = Response> + Send;

    /// Returns true while any response has not ended.
    fn is_busy(&self) -> bool;

    /// The token that is cancelled when the connection, which is idle, is to be closed for another.
    fn evicted(&self) -> Option<&CancellationToken> {
        None
    }

    /// Logs a malformed request, which ended the connection.
    fn malformed_request(&self, error: &hyper::Error);

    /// Counts a connection that is closed for what its client does.
    fn count_protocol_error(&self, error_type: ErrorType);
}

/// How a connection is served.
#[derive(Clone, Copy)]
pub struct ServerConfig {
    pub http2: bool,
    /// The longest wait for a request's head, from the end of the one before.
    pub header_timeout: Option<Duration>,
    /// A connection without requests is told to finish after this, or up to twice as long.
    pub idle: Option<Duration>,
    /// How long a connection of HTTP/1.1 that is to finish waits for one more request: only a
    /// response can tell its client so, and a connection that is closed at once would cross with a
    /// request.
    pub linger: Option<Duration>,
    /// Whether the client may see the proxy's error messages.
    pub error_details: bool,
    /// How long an exchange of HTTP/1.1 may go on once its client has ended its side.
    pub half_close: Duration,
    /// How long the client may take nothing of a response.
    pub answer_idle: Option<Duration>,
    /// Whether the client is outside the mesh.
    pub external: bool,
    /// How long the client's certificate is valid: the connection is told to finish then.
    pub certificate_lifetime: Option<Duration>,
}

pub async fn serve<S, H>(
    stream: S,
    config: ServerConfig,
    handler: Arc<H>,
    closing: &DrainWatch,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let ended = delivery::scope(until_it_ends(stream, config, &handler, closing)).await;
    if let Err(ServeError::Http1(error)) = &ended
        && error.is_parse()
    {
        handler.malformed_request(error);
    }
    ended
}

async fn until_it_ends<S, H>(
    stream: S,
    config: ServerConfig,
    handler: &Arc<H>,
    closing: &DrainWatch,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let stream = Lingering::new(stream, closing.clone(), handler.evicted().cloned());
    match config.http2 {
        true => http2::serve(stream, config, handler, closing).await,
        false => Ok(http1::serve(stream, config, handler, closing).await?),
    }
}

/// Resolves once the connection is to finish its requests and take no new ones. `requests`: how
/// many were begun.
async fn finishing<H: Handler>(
    handler: &H,
    requests: &AtomicU64,
    config: &ServerConfig,
    closing: &DrainWatch,
) {
    tokio::select! {
        () = closing.started() => {}
        () = idle(handler, requests, config.idle) => {}
        () = certificate_expired(config.certificate_lifetime) => {}
    }
}

/// Resolves once the time of a connection to finish is over.
async fn cut<H: Handler>(handler: &H, closing: &DrainWatch) {
    tokio::select! {
        () = closing.deadline() => {}
        () = evicted_and_idle(handler, handler.evicted()) => {}
    }
}

/// Runs a connection that was told to finish until it ends or is cut.
async fn finish<E>(
    connection: impl Future<Output = Result<(), E>>,
    over: impl Future<Output = ()>,
) -> Result<(), E> {
    tokio::select! {
        biased;
        ended = connection => ended,
        () = over => Ok(()),
    }
}

async fn certificate_expired(certificate_lifetime: Option<Duration>) {
    match certificate_lifetime {
        Some(lifetime) => tokio::time::sleep(lifetime).await,
        None => std::future::pending().await,
    }
}

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Resolves once the connection is evicted and no request that crossed with that is in flight.
async fn evicted_and_idle<H: Handler>(handler: &H, evicted: Option<&CancellationToken>) {
    cancelled(evicted).await;
    while handler.is_busy() {
        tokio::time::sleep(RESET_GRACE).await;
    }
}

/// Resolves once no request was begun for `limit` and none is in flight.
async fn idle<H: Handler>(handler: &H, begun: &AtomicU64, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut before = begun.load(Relaxed);
    loop {
        tokio::time::sleep(limit).await;
        let now = begun.load(Relaxed);
        if now == before && !handler.is_busy() {
            return;
        }
        before = now;
    }
}
