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
use super::liveness::{self, Liveness};
use super::{Endpoint, EndpointRegistry};
use crate::body::{Request, RequestBody};
use crate::net::cork::Corked;

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
/// noticed (see [`Liveness`]). Applications are never pinged: some take that for an attack and
/// close the connection.
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
type ConnectFailure = Option<(u64, ConnectError)>;

impl Default for Pool {
    fn default() -> Self {
        Self {
            connections: Mutex::default(),
            connecting: Arc::default(),
            max_streams: Arc::new(AtomicU32::new(MAX_STREAMS)),
        }
    }
}

pub struct Connection {
    /// `None` once the connection has ended. A request that is queued in hyper in the moment of the
    /// connection's end may be left in the queue, with all behind it: they are returned once nobody
    /// can queue another, and only then.
    sender: ArcSwapOption<SendRequest<RequestBody>>,
    streams: AtomicU32,
    max_streams: Arc<AtomicU32>,
    created: u64,
    last_used: AtomicU64,
    /// Of an endpoint that is a proxy.
    liveness: Option<Arc<Liveness>>,
}

/// One request's share of a connection's concurrent streams.
pub struct StreamSlot(Arc<Connection>);

impl StreamSlot {
    fn new(connection: Arc<Connection>, now: u64) -> Self {
        connection.streams.fetch_add(1, Relaxed);
        connection.last_used.store(now, Relaxed);
        if let Some(liveness) = &connection.liveness {
            liveness.request_started(now);
        }
        Self(connection)
    }

    /// Sends the request. Returns `None` if the connection has ended.
    pub fn send(
        &self,
        request: Request,
    ) -> Option<impl Future<Output = Result<http::Response<Incoming>, TrySendError<Request>>> + use<>>
    {
        let mut sender = SendRequest::clone(self.0.sender.load().as_deref()?);
        // The future of the response does not hold the sender's queue open.
        Some(sender.try_send_request(request))
    }

    /// Lowers the limit after the endpoint refused a stream.
    pub fn limit_streams(&self) {
        let others = self.0.streams.load(Relaxed).saturating_sub(1);
        self.0.max_streams.fetch_min(others.max(1), Relaxed);
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
        if let Some(liveness) = &self.0.liveness {
            liveness.request_ended();
        }
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        let sender = self.sender.load();
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    fn claim(self: &Arc<Self>, now: u64) -> Option<StreamSlot> {
        let young = now.saturating_sub(self.created) < MAX_AGE.as_nanos() as u64;
        let has_room = self.streams.load(Relaxed) < self.max_streams.load(Relaxed);
        (young && has_room && self.is_open()).then(|| StreamSlot::new(self.clone(), now))
    }
}

impl Pool {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, now: u64) -> Option<StreamSlot> {
        self.connections().iter().find_map(|one| one.claim(now))
    }

    /// Adds a new connection to the pool, and reserves its first stream.
    pub(super) async fn add(
        &self,
        registry: &EndpointRegistry,
        endpoint: &Endpoint,
        transport: Transport,
    ) -> Result<StreamSlot, ConnectError> {
        let (sender, driver) =
            handshake(registry, endpoint, transport, self.max_streams.clone()).await?;
        let now = registry.now();
        let connection = Arc::new(Connection {
            sender: ArcSwapOption::from_pointee(sender),
            streams: AtomicU32::new(0),
            max_streams: self.max_streams.clone(),
            created: now,
            last_used: AtomicU64::new(now),
            liveness: endpoint.is_proxy().then(|| endpoint.liveness.clone()),
        });
        let weak = Arc::downgrade(&connection);
        tokio::spawn(async move {
            driver.await;
            if let Some(connection) = weak.upgrade() {
                connection.sender.store(None);
            }
        });
        self.connections().push(connection.clone());
        Ok(StreamSlot::new(connection, now))
    }

    /// Drops connections that have ended, are too old, or idle: they close once their last request
    /// has ended.
    pub fn sweep(&self, now: u64) {
        let age = |then: u64| Duration::from_nanos(now.saturating_sub(then));
        self.connections().retain(|one| {
            let idle = one.streams.load(Relaxed) == 0 && age(one.last_used.load(Relaxed)) >= IDLE;
            one.is_open() && age(one.created) < MAX_AGE && !idle
        });
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

    /// Reserves a stream on a connection with room; opens a connection if there is none. Returns
    /// true with it if the connection was used before.
    pub(super) async fn reserve_stream(
        self: &Arc<Self>,
        registry: &Arc<EndpointRegistry>,
        alpn: &'static [u8],
    ) -> Result<(StreamSlot, bool), ConnectError> {
        let since = registry.now();
        if let Some(stream) = self.pool(alpn).claim(since) {
            return Ok((stream, true));
        }
        // Boxed, so that the handshake's state does not grow every request's future.
        let opening: BoxFuture<'_, _> = Box::pin(self.connect_for_stream(registry, alpn, since));
        opening.await
    }

    /// Opens a connection, unless another request has done so since `since`.
    async fn connect_for_stream(
        self: &Arc<Self>,
        registry: &Arc<EndpointRegistry>,
        alpn: &'static [u8],
        since: u64,
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

/// Returns a connection and the future that drives it. Keeps `max_streams` up to date with the
/// endpoint's limit.
async fn handshake(
    registry: &EndpointRegistry,
    endpoint: &Endpoint,
    transport: Transport,
    max_streams: Arc<AtomicU32>,
) -> Result<
    (
        SendRequest<RequestBody>,
        impl Future<Output = ()> + Send + use<>,
    ),
    ConnectError,
> {
    let transport = liveness::track(transport, endpoint.liveness.clone(), registry.started);
    let mut client = http2::Builder::new(TokioExecutor::new());
    client
        .timer(TokioTimer::new())
        // Until the endpoint's SETTINGS have come.
        .initial_max_send_streams(max_streams.load(Relaxed) as usize)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER);
    if endpoint.is_proxy() {
        client
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
    }
    let (sender, connection) = client
        .handshake(TokioIo::new(Corked::new(transport)))
        .await
        .map_err(|error| ConnectError::Http {
            address: endpoint.address,
            cause: error.to_string(),
        })?;
    let driver = async move {
        let mut connection = pin!(connection);
        let ended = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            let most = connection.current_max_send_streams();
            max_streams.store(most.clamp(1, MAX_STREAMS as usize) as u32, Relaxed);
            polled
        });
        // Errors reach the requests in flight.
        ended.await.ok();
    };
    Ok((sender, driver))
}
