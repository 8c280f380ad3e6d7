//! HTTP/1.1 connections to an endpoint: one request at a time, kept for the next one.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::OptionFuture;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

use super::attempt::Observed;
use super::connect::{ConnectError, Transport};
use super::interim::{self, Interim};
use super::keep_alive::IdleTimeoutEstimate;
use super::{Endpoint, EndpointRegistry};
use crate::body::{Request, RequestBody};
use crate::clock::{AtomicTimestamp, Clock, Timestamp};
use crate::wire::MAX_RESPONSE_FIELDS;

/// Idle connections kept to one endpoint.
const MAX_IDLE: usize = 128;
/// An idle connection is closed after this: below the limits that servers commonly have.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Most bytes of a response's head, and of the read buffer.
const MAX_RESPONSE_HEAD: usize = 64 << 10;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Connections that wait for their next request.
#[derive(Default)]
pub(super) struct Pool {
    parked: Mutex<Vec<IdleConnection>>,
    keep_alive: Arc<IdleTimeoutEstimate>,
}

struct IdleConnection {
    connection: Connection,
    since: Instant,
}

/// A connection, open for as long as this or its upgraded stream lives.
pub(super) struct Connection {
    /// `None` once it has ended.
    sender: Option<SendRequest<RequestBody>>,
    state: Arc<State>,
}

/// State that the sender and the transport of a connection share.
struct State {
    clock: Clock,
    /// When the connection became idle; the start of the clock while it is in use.
    parked: AtomicTimestamp,
    /// Whether to check, before the next request is written, that the endpoint has not closed the
    /// connection.
    check: AtomicBool,
    /// Nanoseconds that the connection was idle before the current request; 0 for the first one.
    waited: AtomicU64,
    /// Whether the endpoint closes the connection after this response.
    last: AtomicBool,
    /// The task that drives the connection; kept here, since a request's future carries whatever is
    /// beside the sender.
    driver: Mutex<Option<JoinHandle<()>>>,
    keep_alive: Arc<IdleTimeoutEstimate>,
    /// Informational responses to the current request.
    interim: Interim,
}

impl State {
    fn driver(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn park(&self) {
        let least = Timestamp::START + Duration::from_nanos(1);
        self.parked.store(self.clock.now().max(least));
    }

    fn unpark(&self) {
        self.parked.store(Timestamp::START);
    }

    /// How long the connection has been idle, if it is.
    fn idle(&self) -> Option<Duration> {
        let parked = self.parked.load();
        (parked > Timestamp::START).then(|| self.clock.now().since(parked))
    }

    fn resume(&self, waited: Duration, check: bool) {
        self.unpark();
        self.check.store(check, Relaxed);
        self.waited
            .store((waited.as_nanos() as u64).max(1), Relaxed);
    }

    /// Learns the endpoint's idle timeout from the result of a request.
    fn observe(&self, result: &SendResult) {
        let waited = self.waited.load(Relaxed);
        match result {
            Ok(response) => self.observe_headers(response.headers()),
            Err(_) if waited > 0 => {
                let waited = Duration::from_nanos(waited);
                self.keep_alive.observed_closed(waited);
            }
            Err(_) => {}
        }
    }

    /// Reads what a response says of its own connection and of others.
    fn observe_headers(&self, headers: &HeaderMap) {
        if let Some(header) = headers.get(KEEP_ALIVE) {
            self.keep_alive.observed_header(header.as_bytes());
        }
        let is_close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        if headers.get(CONNECTION).is_some_and(is_close) {
            self.last.store(true, Relaxed);
        }
    }
}

type SendResult = Result<http::Response<Incoming>, TrySendError<Request>>;
/// `None` if the connection had ended before.
type SendFailure = Option<TrySendError<Request>>;

/// Nothing of the request was written: the endpoint had closed the connection before.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint has closed the connection")]
pub(super) struct Stale;

impl Connection {
    /// Returns the connection once it takes a request; `None` if it has ended before.
    pub(super) async fn when_ready(mut self) -> Option<Self> {
        let ready = self.sender.as_mut()?.ready().await;
        ready.is_ok().then_some(self)
    }

    /// Returns true if the connection has served other requests before.
    pub(super) fn is_reused(&self) -> bool {
        self.state.waited.load(Relaxed) > 0
    }

    fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(SendRequest::is_closed)
    }

    fn is_ready(&self) -> bool {
        self.sender.as_ref().is_some_and(SendRequest::is_ready)
    }

    /// Sends a request.
    pub(super) async fn send(
        &mut self,
        mut request: Request,
        observed: &mut Observed<'_>,
    ) -> Result<http::Response<Incoming>, SendFailure> {
        let sender = self.sender.as_mut().ok_or(None)?;
        let interested = observed.wants_informational();
        if interested {
            let state = self.state.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                state
                    .interim
                    .put(response.status(), response.headers().clone());
            });
        }
        let mut driver = self.state.driver().take();
        let interim = interested.then_some(&self.state.interim);
        let mut sent = pin!(sender.try_send_request(request));
        let mut sent = poll_fn(|cx| interim::poll_observed(sent.as_mut(), interim, observed, cx));
        tokio::select! {
            biased;
            result = &mut sent => {
                *self.state.driver() = driver;
                self.state.observe(&result);
                return Ok(result?);
            }
            _ = OptionFuture::from(driver.as_mut()) => {}
        }
        // A request that is queued in hyper in the moment of the connection's end may be left in
        // the queue: it is returned once nobody can queue another, and only then.
        self.sender = None;
        let result = sent.await;
        self.state.observe(&result);
        Ok(result?)
    }
}

impl Pool {
    fn parked(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most recently used connection that is ready. For a request that must not be sent
    /// twice (`not_retriable`), takes only one that the endpoint certainly keeps open, and checks
    /// it before anything is written.
    pub(super) fn take(&self, not_retriable: bool) -> Option<Connection> {
        let mut parked = self.parked();
        parked.retain(|one| !one.connection.is_closed());
        let ready = |one: &IdleConnection| one.connection.is_ready();
        let place = parked.iter().rposition(ready)?;
        let now = Instant::now();
        let idle = now.duration_since(parked[place].since);
        if not_retriable {
            if !self.keep_alive.is_safe(idle) {
                let oldest = now.duration_since(parked[0].since);
                self.keep_alive.observed_open(oldest);
            }
            if !self.keep_alive.is_safe(idle) {
                return None;
            }
        }
        let connection = parked.remove(place).connection;
        connection.state.resume(idle, not_retriable);
        Some(connection)
    }

    pub(super) fn put(&self, connection: Connection) {
        if connection.is_closed() || connection.state.last.load(Relaxed) {
            return;
        }
        let mut parked = self.parked();
        if parked.len() >= MAX_IDLE {
            parked.remove(0).connection.state.unpark();
        }
        connection.state.park();
        parked.push(IdleConnection {
            connection,
            since: Instant::now(),
        });
    }

    /// Closes connections that are idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut parked = self.parked();
        parked.retain(|one| {
            let kept = now.duration_since(one.since) < IDLE_TIMEOUT;
            if !kept {
                one.connection.state.unpark();
            }
            kept && !one.connection.is_closed()
        });
        if let Some(oldest) = parked.first() {
            self.keep_alive
                .observed_open(now.duration_since(oldest.since));
        }
    }
}

pub(super) async fn connect(
    registry: &EndpointRegistry,
    endpoint: &Endpoint,
    alpn: &'static [u8],
) -> Result<Connection, ConnectError> {
    let transport = registry.connect(endpoint, alpn).await?;
    handshake(endpoint, transport).await
}

pub(super) async fn handshake(
    endpoint: &Endpoint,
    transport: Transport,
) -> Result<Connection, ConnectError> {
    let state = Arc::new(State {
        clock: Clock::start(),
        parked: AtomicTimestamp::default(),
        check: AtomicBool::new(false),
        waited: AtomicU64::new(0),
        last: AtomicBool::new(false),
        driver: Mutex::default(),
        interim: Interim::default(),
        keep_alive: endpoint.http1.keep_alive.clone(),
    });
    let checked = CheckedTransport {
        transport,
        state: state.clone(),
    };
    let (sender, connection) = http1::Builder::new()
        .max_headers(MAX_RESPONSE_FIELDS)
        .max_buf_size(MAX_RESPONSE_HEAD)
        // The space is removed (RFC 9112, 5.1).
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(TokioIo::new(checked))
        .await
        .map_err(|error| ConnectError::Http {
            address: endpoint.address,
            cause: error.to_string(),
        })?;
    // Errors reach the request in flight.
    let of = state.clone();
    let driver = tokio::spawn(async move {
        drop(connection.with_upgrades().await);
        if let Some(idle) = of.idle() {
            of.keep_alive.observed_closed(idle);
        }
    });
    *state.driver() = Some(driver);
    Ok(Connection {
        sender: Some(sender),
        state,
    })
}

/// Checks the connection before a request is written, if asked to: the latest moment to see that
/// the endpoint closed it while it was idle.
struct CheckedTransport {
    transport: Transport,
    state: Arc<State>,
}

impl CheckedTransport {
    fn check(&self) -> io::Result<()> {
        let check = &self.state.check;
        if check.load(Relaxed) && check.swap(false, Relaxed) && !self.transport.is_quiet() {
            return Err(io::Error::other(Stale));
        }
        Ok(())
    }
}

impl AsyncRead for CheckedTransport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CheckedTransport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
