//! HTTP/2 connections to an endpoint: few, shared by many requests.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::connect::{ConnectError, Transport};
use super::pulse::{Pulse, heard};
use super::{Peer, Shared};
use crate::batch::Corked;
use crate::http::bodies::Body;

/// Streams on one connection before another is opened: all of them share one lock.
const MAX_STREAMS: u32 = 100;
/// Unused for this long, a connection is closed.
const IDLE: Duration = Duration::from_secs(120);
/// After this age a connection takes no new requests, so that load follows new endpoints and certificates.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// Bytes in flight per stream and per connection. Unequal: one stream that is not read must not stop the others.
pub const STREAM_WINDOW: u32 = 256 << 10;
pub const CONNECTION_WINDOW: u32 = 1 << 20;
pub const MAX_HEADER_LIST: u32 = 64 << 10;
pub const SEND_BUFFER: usize = 256 << 10;
/// A proxy that is silent while requests are open is asked this soon, so that its silence is noticed (see [`Pulse`]).
/// Applications are never asked: some take that for an attack and end the connection.
const PING_EVERY: Duration = Duration::from_millis(500);
/// A proxy that does not answer for so long hangs. One whose machine is gone is found out sooner, by
/// [`super::connect::GONE`].
const PING_TIMEOUT: Duration = Duration::from_millis(12_500);

/// The connections to one endpoint in one application protocol of TLS.
#[derive(Default)]
pub struct Pool {
    open: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is being opened, with the outcome if it failed: those who waited share it.
    opening: tokio::sync::Mutex<Option<(u64, ConnectError)>>,
}

pub struct Connection {
    sender: SendRequest<Body>,
    streams: AtomicU32,
    born: u64,
    used: AtomicU64,
    /// Of the endpoint, where it is a proxy.
    pulse: Option<Arc<Pulse>>,
}

/// One request's place on a connection.
pub struct Stream(Arc<Connection>);

impl Stream {
    fn new(connection: Arc<Connection>, now: u64) -> Self {
        connection.streams.fetch_add(1, Relaxed);
        connection.used.store(now, Relaxed);
        if let Some(pulse) = &connection.pulse {
            pulse.begin(now);
        }
        Self(connection)
    }

    pub fn sender(&self) -> SendRequest<Body> {
        self.0.sender.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
        if let Some(pulse) = &self.0.pulse {
            pulse.end();
        }
    }
}

impl Connection {
    fn claim(self: &Arc<Self>, now: u64) -> Option<Stream> {
        let young = now.saturating_sub(self.born) < MAX_AGE.as_nanos() as u64;
        if self.sender.is_closed() || !young || self.streams.load(Relaxed) >= MAX_STREAMS {
            return None;
        }
        Some(Stream::new(self.clone(), now))
    }
}

impl Pool {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, now: u64) -> Option<Stream> {
        self.open().iter().find_map(|one| one.claim(now))
    }

    /// A place on a connection with room; opens one where there is none. True: the connection was used before.
    pub async fn stream(
        &self,
        shared: &Shared,
        peer: &Peer,
        alpn: &'static [u8],
    ) -> Result<(Stream, bool), ConnectError> {
        let asked = shared.now();
        if let Some(stream) = self.claim(asked) {
            return Ok((stream, true));
        }
        // In a box: the state of a handshake is large, and every request would carry room for it.
        Box::pin(self.open_stream(shared, peer, alpn, asked)).await
    }

    /// Opens a connection, unless another request did so meanwhile, since `asked`.
    async fn open_stream(
        &self,
        shared: &Shared,
        peer: &Peer,
        alpn: &'static [u8],
        asked: u64,
    ) -> Result<(Stream, bool), ConnectError> {
        let mut failed = self.opening.lock().await;
        if let Some(stream) = self.claim(asked) {
            return Ok((stream, true));
        }
        if let Some((_, error)) = failed.as_ref().filter(|(when, _)| *when >= asked) {
            return Err(error.clone());
        }
        let opened = match shared.connect(peer, alpn).await {
            Ok(transport) => self.admit(shared, peer, transport).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(stream) => Ok((stream, false)),
            Err(error) => {
                *failed = Some((shared.now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Takes a new connection into use, with a first place on it.
    pub(super) async fn admit(
        &self,
        shared: &Shared,
        peer: &Peer,
        transport: Transport,
    ) -> Result<Stream, ConnectError> {
        let sender = handshake(shared, peer, transport).await?;
        let now = shared.now();
        let connection = Arc::new(Connection {
            sender,
            streams: AtomicU32::new(0),
            born: now,
            used: AtomicU64::new(now),
            pulse: peer.is_proxy().then(|| peer.pulse.clone()),
        });
        self.open().push(connection.clone());
        Ok(Stream::new(connection, now))
    }

    /// Drops connections that ended, are too old, or idle: they close once their last request has ended.
    pub fn sweep(&self, now: u64) {
        let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
        self.open().retain(|one| {
            let idle = one.streams.load(Relaxed) == 0 && since(one.used.load(Relaxed)) >= IDLE;
            !one.sender.is_closed() && since(one.born) < MAX_AGE && !idle
        });
    }
}

async fn handshake(
    shared: &Shared,
    peer: &Peer,
    transport: Transport,
) -> Result<SendRequest<Body>, ConnectError> {
    let transport = heard(transport, peer.pulse.clone(), shared.started);
    let mut client = http2::Builder::new(TokioExecutor::new());
    client
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER);
    if peer.is_proxy() {
        client
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
    }
    let (sender, connection) = client
        .handshake(TokioIo::new(Corked::new(transport)))
        .await
        .map_err(|error| ConnectError::Http {
            address: peer.address,
            cause: error.to_string(),
        })?;
    // Failures reach the requests under way.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}
