//! HTTP/2 connections to an endpoint: few, shared by many requests.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::OwnedMutexGuard;
use weft_api::alpn;

use super::connect::{ConnectError, Transport};
use super::pulse::{Pulse, heard};
use super::{Peer, Shared};
use crate::batch::Corked;
use crate::http::bodies::{Body, Request};

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
pub struct Pool {
    open: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is being opened, with the outcome if it failed: those who waited share it.
    opening: Arc<tokio::sync::Mutex<Failed>>,
    /// Streams that the endpoint takes on one connection, as the last one said, up to [`MAX_STREAMS`].
    room: Arc<AtomicU32>,
}

/// When a connection could not be opened last, and why.
type Failed = Option<(u64, ConnectError)>;

impl Default for Pool {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            opening: Arc::default(),
            room: Arc::new(AtomicU32::new(MAX_STREAMS)),
        }
    }
}

pub struct Connection {
    /// `None` once the connection has ended. A request that is put into the queue of hyper in the moment of the end may be
    /// left in it, and all that come behind it: they are given back when nobody can put in another, and only then.
    sender: ArcSwapOption<SendRequest<Body>>,
    streams: AtomicU32,
    room: Arc<AtomicU32>,
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

    /// Puts the request on its way; `None`: the connection has ended.
    pub fn send(
        &self,
        request: Request,
    ) -> Option<impl Future<Output = Result<http::Response<Incoming>, TrySendError<Request>>> + use<>>
    {
        let mut sender = SendRequest::clone(self.0.sender.load().as_deref()?);
        // Whoever waits for the answer does not hold the queue open.
        Some(sender.try_send_request(request))
    }

    /// The peer refuses to have as many streams on the connection as there are.
    pub fn refused(&self) {
        let others = self.0.streams.load(Relaxed).saturating_sub(1);
        self.0.room.fetch_min(others.max(1), Relaxed);
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
    fn is_open(&self) -> bool {
        let sender = self.sender.load();
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    fn claim(self: &Arc<Self>, now: u64) -> Option<Stream> {
        let young = now.saturating_sub(self.born) < MAX_AGE.as_nanos() as u64;
        let room = self.streams.load(Relaxed) < self.room.load(Relaxed);
        (young && room && self.is_open()).then(|| Stream::new(self.clone(), now))
    }
}

impl Pool {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, now: u64) -> Option<Stream> {
        self.open().iter().find_map(|one| one.claim(now))
    }

    /// Takes a new connection into use, with a first place on it.
    pub(super) async fn admit(
        &self,
        shared: &Shared,
        peer: &Peer,
        transport: Transport,
    ) -> Result<Stream, ConnectError> {
        let (sender, driver) = handshake(shared, peer, transport, self.room.clone()).await?;
        let now = shared.now();
        let connection = Arc::new(Connection {
            sender: ArcSwapOption::from_pointee(sender),
            streams: AtomicU32::new(0),
            room: self.room.clone(),
            born: now,
            used: AtomicU64::new(now),
            pulse: peer.is_proxy().then(|| peer.pulse.clone()),
        });
        let weak = Arc::downgrade(&connection);
        tokio::spawn(async move {
            driver.await;
            if let Some(connection) = weak.upgrade() {
                connection.sender.store(None);
            }
        });
        self.open().push(connection.clone());
        Ok(Stream::new(connection, now))
    }

    /// Drops connections that ended, are too old, or idle: they close once their last request has ended.
    pub fn sweep(&self, now: u64) {
        let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
        self.open().retain(|one| {
            let idle = one.streams.load(Relaxed) == 0 && since(one.used.load(Relaxed)) >= IDLE;
            one.is_open() && since(one.born) < MAX_AGE && !idle
        });
    }
}

impl Peer {
    fn pool(&self, alpn: &'static [u8]) -> &Pool {
        if alpn == alpn::H2 {
            &self.http2
        } else {
            &self.mixed
        }
    }

    /// A place on a connection of HTTP/2 with room; opens one where there is none. True: the connection was used before.
    pub(super) async fn stream(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        alpn: &'static [u8],
    ) -> Result<(Stream, bool), ConnectError> {
        let asked = shared.now();
        if let Some(stream) = self.pool(alpn).claim(asked) {
            return Ok((stream, true));
        }
        // In a box: the state of a handshake is large, and every request would carry room for it.
        let opening: BoxFuture<'_, _> = Box::pin(self.open_stream(shared, alpn, asked));
        opening.await
    }

    /// Opens a connection, unless another request did so meanwhile, since `asked`.
    async fn open_stream(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        alpn: &'static [u8],
        asked: u64,
    ) -> Result<(Stream, bool), ConnectError> {
        let pool = self.pool(alpn);
        let failed = pool.opening.clone().lock_owned().await;
        if let Some(stream) = pool.claim(asked) {
            return Ok((stream, true));
        }
        if let Some((_, error)) = failed.as_ref().filter(|(when, _)| *when >= asked) {
            return Err(error.clone());
        }
        // In a task of its own: who asked may give up, others go on waiting for this one, and later ones find it there.
        let opened = tokio::spawn(open(shared.clone(), self.clone(), alpn, failed)).await;
        let opened = opened.unwrap_or_else(|error| {
            Err(ConnectError::Http {
                address: self.address,
                cause: format!("opening a connection: {error}"),
            })
        });
        opened.map(|stream| (stream, false))
    }
}

async fn open(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    alpn: &'static [u8],
    mut failed: OwnedMutexGuard<Failed>,
) -> Result<Stream, ConnectError> {
    let opened = match shared.connect(&peer, alpn).await {
        Ok(transport) => peer.pool(alpn).admit(&shared, &peer, transport).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &opened {
        *failed = Some((shared.now(), error.clone()));
    }
    opened
}

/// A connection, and what has to run for it until it ends. `room` is kept up to date with what the peer says.
async fn handshake(
    shared: &Shared,
    peer: &Peer,
    transport: Transport,
    room: Arc<AtomicU32>,
) -> Result<(SendRequest<Body>, impl Future<Output = ()> + Send + use<>), ConnectError> {
    let transport = heard(transport, peer.pulse.clone(), shared.started);
    let mut client = http2::Builder::new(TokioExecutor::new());
    client
        .timer(TokioTimer::new())
        // Until the peer's own word is there.
        .initial_max_send_streams(room.load(Relaxed) as usize)
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
    let driver = async move {
        let mut connection = pin!(connection);
        let ended = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            let most = connection.current_max_send_streams();
            room.store(most.clamp(1, MAX_STREAMS as usize) as u32, Relaxed);
            polled
        });
        // Failures reach the requests under way.
        ended.await.ok();
    };
    Ok((sender, driver))
}
