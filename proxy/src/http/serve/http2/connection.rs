//! A connection of HTTP/2 as a future, which accepts requests until the connection has ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Handshake};
use tokio::io::{AsyncRead, AsyncWrite};

use super::stream;
use super::{PING_EVERY, PING_TIMEOUT};
use crate::http::delivery;
use crate::http::resets::ResetTracker;
use crate::http::serve::{Handler, ServeError};
use crate::net::ping::{KeepAlive, LastRead};

/// Ready once all streams have ended after [`Connection::graceful_shutdown`], or when the client
/// has gone.
pub(super) struct Connection<S, H> {
    state: State<S>,
    requests: Requests<H>,
    read: Arc<LastRead>,
}

enum State<S> {
    /// `finish`: the connection is to take no requests from the start.
    Opening {
        handshake: Handshake<S, Bytes>,
        finish: bool,
    },
    Open(Open<S>),
}

struct Open<S> {
    connection: h2::server::Connection<S, Bytes>,
    keep_alive: Option<KeepAlive>,
    /// The client answered no ping.
    silent: bool,
}

/// What becomes of the requests.
pub(super) struct Requests<H> {
    pub(super) handler: Arc<H>,
    /// Counts those that were begun, if anybody asks.
    pub(super) begun: Option<Arc<AtomicU64>>,
    pub(super) resets: Arc<ResetTracker>,
    /// How long a client may take nothing of a response.
    pub(super) answer_idle: Option<Duration>,
}

impl<S, H> Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    /// The reads of `io` are recorded in `read`.
    pub(super) fn new(
        builder: &Builder,
        io: S,
        read: Arc<LastRead>,
        requests: Requests<H>,
    ) -> Self {
        let handshake = builder.handshake(io);
        Self {
            state: State::Opening {
                handshake,
                finish: false,
            },
            requests,
            read,
        }
    }

    /// Tells the client to send no new requests: in two steps, so that those that cross with the
    /// first are answered (RFC 9113, 6.8).
    pub(super) fn graceful_shutdown(&mut self) {
        match &mut self.state {
            State::Opening { finish, .. } => *finish = true,
            State::Open(open) => open.connection.graceful_shutdown(),
        }
    }
}

impl<S, H> Future for Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    type Output = Result<(), ServeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Opening { handshake, finish } = &mut this.state {
            let mut connection = ready!(Pin::new(handshake).poll(cx))?;
            if *finish {
                connection.graceful_shutdown();
            }
            let read = this.read.clone();
            let pings = connection.ping_pong();
            this.state = State::Open(Open {
                keep_alive: pings.map(|of| KeepAlive::new(of, read, PING_EVERY, PING_TIMEOUT)),
                connection,
                silent: false,
            });
        }
        match &mut this.state {
            State::Open(open) => open.poll(&this.requests, cx),
            State::Opening { .. } => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Open<S> {
    fn poll<H: Handler>(
        &mut self,
        requests: &Requests<H>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ServeError>> {
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.poll(cx, true).is_ready()
        {
            self.keep_alive = None;
            self.silent = true;
            self.connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        }
        loop {
            match ready!(self.connection.poll_accept(cx)) {
                Some(Ok((request, respond))) => {
                    if let Some(begun) = &requests.begun {
                        begun.fetch_add(1, Relaxed);
                    }
                    let pending = requests.resets.begin();
                    let stream = stream::serve(requests.handler.clone(), request, respond, pending);
                    delivery::spawn(stream, requests.answer_idle);
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None if self.silent => return Poll::Ready(Err(ServeError::Silent)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}
