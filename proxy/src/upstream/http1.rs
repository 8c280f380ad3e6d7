//! HTTP/1.1 connections to an endpoint: one request at a time, kept for the next one.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::connect::{ConnectError, Transport};
use super::{Peer, Shared};
use crate::http::bodies::{Body, Request};
use crate::http::headers::MAX_FIELDS;

/// Idle connections kept to one endpoint.
const MAX_IDLE: usize = 128;
/// After this long unused a connection is closed: below the limits that servers commonly have.
const IDLE: Duration = Duration::from_secs(45);
/// Header bytes of a response, and bytes buffered.
const MAX_HEAD: usize = 64 << 10;

/// Connections that wait for their next request.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Parked>>);

struct Parked {
    connection: Connection,
    since: Instant,
}

/// A connection, which lives for as long as this, or its upgraded stream, does.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Once it takes a request; `None`: it has ended before.
    pub(super) async fn begun(mut self) -> Option<Self> {
        self.sender.ready().await.is_ok().then_some(self)
    }

    /// Sends a request; gives the connection back with the answer, unless it has ended.
    pub(super) async fn send(
        self,
        request: Request,
    ) -> Result<(http::Response<Incoming>, Option<Self>), TrySendError<Request>> {
        let Self {
            mut sender,
            mut driver,
        } = self;
        let mut sent = pin!(sender.try_send_request(request));
        tokio::select! {
            biased;
            answered = sent.as_mut() => return Ok((answered?, Some(Self { sender, driver }))),
            _ = &mut driver => {}
        }
        // A request that came into the queue of hyper in the moment of the end may be left in it: it is given back when nobody
        // can put in another, and only then.
        drop(sender);
        Ok((sent.await?, None))
    }
}

impl Idle {
    fn parked(&self) -> MutexGuard<'_, Vec<Parked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, if one is ready.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut parked = self.parked();
        parked.retain(|one| !one.connection.sender.is_closed());
        let ready = |one: &Parked| one.connection.sender.is_ready();
        let place = parked.iter().rposition(ready)?;
        Some(parked.remove(place).connection)
    }

    pub(super) fn put(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut parked = self.parked();
        if parked.len() >= MAX_IDLE {
            parked.remove(0);
        }
        parked.push(Parked {
            connection,
            since: Instant::now(),
        });
    }

    /// Closes what has been idle too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.parked().retain(|one| {
            !one.connection.sender.is_closed() && now.duration_since(one.since) < IDLE
        });
    }
}

pub(super) async fn open(
    shared: &Shared,
    peer: &Peer,
    alpn: &'static [u8],
) -> Result<Connection, ConnectError> {
    let transport = shared.connect(peer, alpn).await?;
    handshake(peer, transport).await
}

pub(super) async fn handshake(
    peer: &Peer,
    transport: Transport,
) -> Result<Connection, ConnectError> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        // The blank is taken away (RFC 9112, 5.1).
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| ConnectError::Http {
            address: peer.address,
            cause: error.to_string(),
        })?;
    // Failures reach the request under way.
    let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(Connection { sender, driver })
}
