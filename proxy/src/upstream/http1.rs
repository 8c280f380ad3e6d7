//! HTTP/1.1 connections to an endpoint: one request at a time, kept for the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::connect::{ConnectError, Transport};
use super::{Peer, Shared};
use crate::http::bodies::Body;

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
    sender: SendRequest<Body>,
    since: Instant,
}

impl Idle {
    fn parked(&self) -> MutexGuard<'_, Vec<Parked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, if one is ready.
    pub(super) fn take(&self) -> Option<SendRequest<Body>> {
        let mut parked = self.parked();
        parked.retain(|one| !one.sender.is_closed());
        let place = parked.iter().rposition(|one| one.sender.is_ready())?;
        Some(parked.remove(place).sender)
    }

    pub(super) fn put(&self, sender: SendRequest<Body>) {
        if sender.is_closed() {
            return;
        }
        let mut parked = self.parked();
        if parked.len() >= MAX_IDLE {
            parked.remove(0);
        }
        parked.push(Parked {
            sender,
            since: Instant::now(),
        });
    }

    /// Closes what has been idle too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.parked()
            .retain(|one| !one.sender.is_closed() && now.duration_since(one.since) < IDLE);
    }
}

/// Opens a connection, which lives for as long as its sender, or its upgraded stream, does.
pub(super) async fn open(
    shared: &Shared,
    peer: &Peer,
    alpn: &'static [u8],
) -> Result<SendRequest<Body>, ConnectError> {
    let transport = shared.connect(peer, alpn).await?;
    handshake(peer, transport).await
}

pub(super) async fn handshake(
    peer: &Peer,
    transport: Transport,
) -> Result<SendRequest<Body>, ConnectError> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| ConnectError::Http {
            address: peer.address,
            cause: error.to_string(),
        })?;
    // Failures reach the request under way.
    tokio::spawn(async move { connection.with_upgrades().await.ok() });
    Ok(sender)
}
