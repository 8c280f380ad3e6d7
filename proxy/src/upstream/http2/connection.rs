//! One connection of HTTP/2 to an endpoint, and the requests on it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};
use http_body::Body as _;

use super::{CONNECTION_WINDOW, IDLE, MAX_AGE, MAX_HEADER_LIST, MAX_STREAMS, SEND_BUFFER};
use super::{PING_EVERY, PING_TIMEOUT, STREAM_WINDOW};
use crate::body::{Incoming, Request, RequestBody, StreamWriter};
use crate::clock::{AtomicTimestamp, Timestamp};
use crate::net::cork::Corked;
use crate::net::io::ObservedReads;
use crate::net::ping::{KeepAlive, LastRead};
use crate::upstream::attempt::Observed;
use crate::upstream::broken::Broken;
use crate::upstream::connect::{ConnectError, Transport};
use crate::upstream::liveness::Liveness;
use crate::upstream::{Endpoint, EndpointRegistry};
use crate::wire;

pub(super) struct Connection {
    /// Requests go out one after the other, each by its own task.
    sender: Mutex<SendRequest<Bytes>>,
    shared: Arc<Shared>,
    max_streams: Arc<AtomicU32>,
    created: Timestamp,
    last_used: AtomicTimestamp,
    /// Of an endpoint that is a proxy.
    liveness: Option<Arc<Liveness>>,
}

/// What a connection and the task that drives it know of each other.
#[derive(Default)]
struct Shared {
    streams: AtomicU32,
    ended: AtomicBool,
    /// The endpoint answered no ping.
    silent: AtomicBool,
}

/// Why a request got no response.
pub(in crate::upstream) enum SendFailure {
    /// The endpoint did not see the request.
    NotSent,
    Broken(Broken),
}

/// One request's share of a connection's concurrent streams.
pub(in crate::upstream) struct StreamSlot(Arc<Connection>);

/// A request whose head is on its way.
pub(in crate::upstream) struct Sent<'a> {
    connection: &'a Connection,
    response: ResponseFuture,
    /// What is left of the request.
    upload: Option<StreamWriter<RequestBody>>,
    /// Ready once the endpoint's limit of streams lets this one out; `None` if it has.
    opening: Option<SendRequest<Bytes>>,
}

impl StreamSlot {
    pub(super) fn new(connection: Arc<Connection>, now: Timestamp) -> Self {
        connection.shared.streams.fetch_add(1, Relaxed);
        connection.last_used.store(now);
        if let Some(liveness) = &connection.liveness {
            liveness.request_started(now);
        }
        Self(connection)
    }

    /// Sends the head of the request.
    pub(in crate::upstream) fn send(&self, request: Request) -> Result<Sent<'_>, SendFailure> {
        let (mut head, body) = request.into_parts();
        wire::strip_connection_fields(&mut head.headers, true);
        let is_bodiless = matches!(head.method, Method::GET | Method::HEAD | Method::DELETE);
        if let Some(length) = body.size_hint().exact()
            && (length > 0 || !is_bodiless)
        {
            let length = || HeaderValue::from(length);
            head.headers.entry(CONTENT_LENGTH).or_insert_with(length);
        }
        self.0.open(http::Request::from_parts(head, ()), body)
    }

    /// Lowers the limit after the endpoint refused a stream.
    pub(in crate::upstream) fn limit_streams(&self) {
        let streams = self.0.shared.streams.load(Relaxed);
        let others = streams.saturating_sub(1);
        self.0.max_streams.fetch_min(others.max(1), Relaxed);
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.shared.streams.fetch_sub(1, Relaxed);
        if let Some(liveness) = &self.0.liveness {
            liveness.request_ended();
        }
    }
}

impl Sent<'_> {
    /// Sends the body, and waits for the response. What of the body the endpoint has not taken by
    /// then is sent by a task of its own.
    pub(in crate::upstream) async fn response(
        mut self,
        observed: &mut Observed<'_>,
    ) -> Result<http::Response<Incoming>, SendFailure> {
        if let Some(mut opening) = self.opening.take() {
            let opened = poll_fn(|cx| opening.poll_ready(cx)).await;
            opened.map_err(|_| SendFailure::NotSent)?;
        }
        let interested = observed.wants_informational();
        let received = poll_fn(|cx| {
            if let Some(upload) = &mut self.upload
                && Pin::new(upload).poll(cx).is_ready()
            {
                self.upload = None;
            }
            if interested {
                ready!(self.poll_informational(observed, cx))?;
            }
            Pin::new(&mut self.response).poll(cx)
        })
        .await;
        let received = received.map_err(|error| SendFailure::Broken(self.connection.broken(error)));
        let (head, stream) = received?.into_parts();
        if let Some(upload) = self.upload {
            tokio::spawn(upload);
        }
        let body = Incoming::of_response(stream, &head.headers);
        Ok(http::Response::from_parts(head, body))
    }

    /// Ready once the response is there; tells the observer of informational ones before it.
    fn poll_informational(
        &mut self,
        observed: &mut Observed<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        while let Some(response) = ready!(self.response.poll_informational(cx)) {
            observed.informational(response?);
        }
        Poll::Ready(Ok(()))
    }
}

impl Connection {
    /// Opens a connection, which a task of its own drives. Keeps `max_streams` up to date with the
    /// endpoint's limit.
    pub(super) async fn start(
        registry: &EndpointRegistry,
        endpoint: &Endpoint,
        transport: Transport,
        max_streams: Arc<AtomicU32>,
    ) -> Result<Arc<Self>, ConnectError> {
        let is_proxy = endpoint.is_proxy();
        let (liveness, clock) = (endpoint.liveness.clone(), registry.clock);
        let read = is_proxy.then(LastRead::new);
        let recorded = read.clone();
        let transport = ObservedReads::new(transport, move |_| {
            liveness.received(clock.now());
            if let Some(read) = &recorded {
                read.record();
            }
        });
        let (sender, mut driven) = h2::client::Builder::new()
            // Until the endpoint's SETTINGS have come.
            .initial_max_send_streams(max_streams.load(Relaxed) as usize)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake(Corked::new(transport))
            .await
            .map_err(|error| ConnectError::Http {
                address: endpoint.address,
                cause: error.to_string(),
            })?;
        let pings = read.zip(driven.ping_pong());
        let keep_alive =
            pings.map(|(read, pings)| KeepAlive::new(pings, read, PING_EVERY, PING_TIMEOUT));
        let shared = Arc::<Shared>::default();
        let now = registry.now();
        tokio::spawn(drive(
            driven,
            keep_alive,
            shared.clone(),
            max_streams.clone(),
        ));
        Ok(Arc::new(Self {
            sender: Mutex::new(sender),
            shared,
            max_streams,
            created: now,
            last_used: AtomicTimestamp::new(now),
            liveness: is_proxy.then(|| endpoint.liveness.clone()),
        }))
    }

    fn is_open(&self) -> bool {
        !self.shared.ended.load(Relaxed)
    }

    pub(super) fn claim(self: &Arc<Self>, now: Timestamp) -> Option<StreamSlot> {
        let young = now.since(self.created) < MAX_AGE;
        let has_room = self.shared.streams.load(Relaxed) < self.max_streams.load(Relaxed);
        (young && has_room && self.is_open()).then(|| StreamSlot::new(self.clone(), now))
    }

    /// Returns true if the connection is open, and neither too old nor idle.
    pub(super) fn is_kept(&self, now: Timestamp) -> bool {
        let unused = self.shared.streams.load(Relaxed) == 0;
        let idle = unused && now.since(self.last_used.load()) >= IDLE;
        self.is_open() && now.since(self.created) < MAX_AGE && !idle
    }

    /// Opens a stream. The endpoint may allow fewer than are open: it waits for its turn then, and
    /// until that comes nothing of it is written.
    fn open(&self, head: http::Request<()>, body: RequestBody) -> Result<Sent<'_>, SendFailure> {
        let is_empty = body.is_end_stream();
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let (response, stream) = sender.send_request(head, is_empty).map_err(|error| {
            let of_connection = error.is_go_away() || error.is_io() || error.is_reset();
            if !of_connection {
                return SendFailure::Broken(Broken::Http2(error));
            }
            // Told to go, or ended.
            self.shared.ended.store(true, Relaxed);
            SendFailure::NotSent
        })?;
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        // The one that waits keeps the sender that knows of it.
        let opening = ready.is_pending().then(|| {
            let other = sender.clone();
            std::mem::replace(&mut *sender, other)
        });
        Ok(Sent {
            connection: self,
            response,
            upload: (!is_empty).then(|| StreamWriter::new(stream, body)),
            opening,
        })
    }

    fn broken(&self, error: h2::Error) -> Broken {
        match self.shared.silent.load(Relaxed) {
            true => Broken::Silent,
            false => Broken::Http2(error),
        }
    }
}

/// Runs a connection until it ends. Errors reach the requests in flight.
async fn drive<T>(
    mut connection: h2::client::Connection<T, Bytes>,
    mut keep_alive: Option<KeepAlive>,
    shared: Arc<Shared>,
    max_streams: Arc<AtomicU32>,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let active = shared.streams.load(Relaxed) > 0;
        if let Some(keep_alive) = &mut keep_alive
            && keep_alive.poll(cx, active).is_ready()
        {
            shared.silent.store(true, Relaxed);
            return Poll::Ready(());
        }
        let polled = Pin::new(&mut connection).poll(cx);
        let most = connection.max_concurrent_send_streams();
        max_streams.store(most.clamp(1, MAX_STREAMS as usize) as u32, Relaxed);
        polled.map(drop)
    })
    .await;
    shared.ended.store(true, Relaxed);
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::upstream::Unobserved;

    /// A connection to an endpoint that allows one stream, though the pool does not know it yet.
    async fn narrow() -> (Arc<Connection>, DuplexStream) {
        let (near, far) = duplex(1 << 16);
        let mut builder = h2::client::Builder::new();
        let handshake = builder.initial_max_send_streams(1).handshake(near);
        let (sender, driven) = handshake.await.unwrap();
        let connection = Connection {
            sender: Mutex::new(sender),
            shared: Arc::default(),
            max_streams: Arc::new(AtomicU32::new(100)),
            created: Timestamp::START,
            last_used: AtomicTimestamp::default(),
            liveness: None,
        };
        let (shared, max_streams) = (connection.shared.clone(), connection.max_streams.clone());
        tokio::spawn(drive(driven, None, shared, max_streams));
        (Arc::new(connection), far)
    }

    fn slots(connection: &Arc<Connection>) -> [StreamSlot; 3] {
        [(); 3].map(|()| StreamSlot::new(connection.clone(), Timestamp::START))
    }

    fn send(slot: &StreamSlot) -> Sent<'_> {
        let mut request = Request::new(RequestBody::empty());
        *request.uri_mut() = http::Uri::from_static("http://shop/");
        slot.send(request).ok().unwrap()
    }

    async fn response(sent: Sent<'_>) -> Result<http::StatusCode, SendFailure> {
        let mut observed = Observed {
            observer: &mut Unobserved,
            committed: false,
        };
        let response = sent.response(&mut observed).await;
        response.map(|response| response.status())
    }

    #[tokio::test]
    async fn streams_beyond_limit_wait_for_their_turn() {
        let (connection, far) = narrow().await;
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            let handshake = builder.max_concurrent_streams(1).handshake(far);
            let mut server: h2::server::Connection<_, Bytes> = handshake.await.unwrap();
            while let Some(Ok((_, mut respond))) = server.accept().await {
                respond
                    .send_response(http::Response::new(()), true)
                    .unwrap();
            }
        });
        let slots = slots(&connection);
        let [a, b, c] = slots.each_ref().map(send).map(response);
        let (a, b, c) = tokio::join!(a, b, c);
        for response in [a, b, c] {
            assert_eq!(response.ok(), Some(http::StatusCode::OK));
        }
    }

    #[tokio::test]
    async fn stream_that_waits_was_not_sent_when_connection_ends() {
        let (connection, far) = narrow().await;
        let slots = slots(&connection);
        let [first, second, third] = slots.each_ref().map(send).map(response);
        let mut first = std::pin::pin!(first);
        // The task of the connection writes the first.
        for _ in 0..10 {
            assert!(futures::poll!(first.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        drop(far);
        assert!(matches!(first.await, Err(SendFailure::Broken(_))));
        for waiting in [second, third] {
            assert!(matches!(waiting.await, Err(SendFailure::NotSent)));
        }
        assert!(!connection.is_open());
    }
}
