//! HTTP/2 connections to an endpoint: few, shared by many requests.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connection::Connection;
use futures::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;
use weft_api::alpn;
use weft_ir::ConnectTimeout;

use super::connect::{ConnectError, Transport};
use super::{Endpoint, EndpointRegistry};
use crate::clock::Timestamp;

mod connection;

pub(super) use connection::{SendFailure, StreamSlot};

/// Streams on one connection before another is opened: all streams of a connection share one lock.
const MAX_STREAMS: u32 = 100;
/// An unused connection is closed after this.
const IDLE: Duration = Duration::from_secs(120);
/// A connection older than this takes no new requests, so that load follows new endpoints and
/// certificates.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// Flow-control windows of a stream and of a connection. Unequal, so that one stream that is not
/// read does not stop the others.
pub const STREAM_WINDOW: u32 = 256 << 10;
pub const CONNECTION_WINDOW: u32 = 1 << 20;
pub const MAX_HEADER_LIST: u32 = 64 << 10;
pub const SEND_BUFFER: usize = 256 << 10;
/// A proxy that is silent while requests are open is pinged this often, so that its silence is
/// noticed (see [`super::liveness`]). Applications are never pinged: some take that for an attack
/// and close the connection.
const PING_EVERY: Duration = Duration::from_millis(500);
/// A proxy that answers no ping for this long hangs. One whose machine is gone is found out sooner,
/// by [`super::connect::UNACKNOWLEDGED`].
const PING_TIMEOUT: Duration = Duration::from_millis(12_500);

/// The connections to one endpoint in one application protocol of TLS.
pub struct Pool {
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is being opened, with the error if that failed: those who waited
    /// share it.
    connecting: Arc<tokio::sync::Mutex<ConnectFailure>>,
    /// The endpoint's latest limit of concurrent streams, up to [`MAX_STREAMS`].
    max_streams: Arc<AtomicU32>,
}

/// When connecting failed last, and why.
type ConnectFailure = Option<(Timestamp, ConnectError)>;

impl Default for Pool {
    fn default() -> Self {
        Self {
            connections: Mutex::default(),
            connecting: Arc::default(),
            max_streams: Arc::new(AtomicU32::new(MAX_STREAMS)),
        }
    }
}

impl Pool {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, now: Timestamp) -> Option<StreamSlot> {
        self.connections().iter().find_map(|one| one.claim(now))
    }

    /// Adds a new connection to the pool, and reserves its first stream.
    pub(super) async fn add(
        &self,
        registry: &EndpointRegistry,
        endpoint: &Endpoint,
        transport: Transport,
    ) -> Result<StreamSlot, ConnectError> {
        let opened = Connection::start(registry, endpoint, transport, self.max_streams.clone());
        let connection = opened.await?;
        self.connections().push(connection.clone());
        Ok(StreamSlot::new(connection, registry.now()))
    }

    /// Drops connections that have ended, are too old, or idle: they close once their last request
    /// has ended.
    pub fn sweep(&self, now: Timestamp) {
        self.connections().retain(|one| one.is_kept(now));
    }
}

impl Endpoint {
    fn pool(&self, alpn: &'static [u8]) -> &Pool {
        if alpn == alpn::H2 {
            &self.http2
        } else {
            &self.http2_for_http1
        }
    }

    /// Reserves a stream on a connection with room; opens a connection if there is none, and waits
    /// for it at most this long. Returns true with it if the connection was used before.
    pub(super) async fn reserve_stream(
        self: &Arc<Self>,
        registry: &Arc<EndpointRegistry>,
        alpn: &'static [u8],
        limit: Option<ConnectTimeout>,
    ) -> Result<(StreamSlot, bool), ConnectError> {
        let since = registry.now();
        if let Some(stream) = self.pool(alpn).claim(since) {
            return Ok((stream, true));
        }
        // Boxed, so that the handshake's state does not grow every request's future.
        let opening = self.connect_for_stream(registry, alpn, since);
        let opening: BoxFuture<'_, _> = Box::pin(self.within(limit, opening));
        opening.await
    }

    /// Opens a connection, unless another request has done so since `since`.
    async fn connect_for_stream(
        self: &Arc<Self>,
        registry: &Arc<EndpointRegistry>,
        alpn: &'static [u8],
        since: Timestamp,
    ) -> Result<(StreamSlot, bool), ConnectError> {
        let pool = self.pool(alpn);
        let failed = pool.connecting.clone().lock_owned().await;
        if let Some(stream) = pool.claim(since) {
            return Ok((stream, true));
        }
        if let Some((_, error)) = failed.as_ref().filter(|(when, _)| *when >= since) {
            return Err(error.clone());
        }
        // In a task of its own: the request that opens the connection may be cancelled, while
        // others wait for it and later ones find it.
        let opened = tokio::spawn(connect(registry.clone(), self.clone(), alpn, failed)).await;
        let opened = opened.unwrap_or_else(|error| {
            Err(ConnectError::Http {
                address: self.address,
                cause: format!("opening a connection: {error}"),
            })
        });
        opened.map(|stream| (stream, false))
    }
}

async fn connect(
    registry: Arc<EndpointRegistry>,
    endpoint: Arc<Endpoint>,
    alpn: &'static [u8],
    mut failed: OwnedMutexGuard<ConnectFailure>,
) -> Result<StreamSlot, ConnectError> {
    let opened = match registry.connect(&endpoint, alpn).await {
        Ok(transport) => {
            endpoint
                .pool(alpn)
                .add(&registry, &endpoint, transport)
                .await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &opened {
        *failed = Some((registry.now(), error.clone()));
    }
    opened
}
