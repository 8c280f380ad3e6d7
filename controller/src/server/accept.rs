//! Takes connections: TCP, then the TLS handshake, bounded in time and number; bad ones are closed and counted.
//!
//! Handshakes run beside each other, so that one that dawdles holds up nobody. Knows nothing of gRPC.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use weft_ir::{Identity, TrustDomain};

use crate::identity::{Metrics, ServerIdentity, identity_of};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES_AT_ONCE: usize = 1024;
/// Open connections; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 16 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) identity: Option<Identity>,
    pub(super) address: SocketAddr,
}

/// A connection after its handshake.
pub(super) struct Connection {
    io: TlsStream<TcpStream>,
    peer: Peer,
    _slot: OwnedSemaphorePermit,
}

/// Why a connection was closed before it carried a request.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("no TLS handshake within {} s", HANDSHAKE.as_secs())]
    Timeout,
    #[error(transparent)]
    Handshake(io::Error),
    #[error(transparent)]
    Peer(#[from] crate::identity::PeerError),
}

impl Closed {
    /// A word for the metrics.
    fn word(&self) -> &'static str {
        let tls = match self {
            Self::Timeout => return "timeout",
            Self::Peer(_) => return "bad_certificate",
            Self::Handshake(error) => error.get_ref().and_then(|e| e.downcast_ref()),
        };
        match tls {
            Some(rustls::Error::InvalidCertificate(_)) => "bad_certificate",
            Some(rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. }) => {
                "not_tls"
            }
            Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Some(rustls::Error::AlertReceived(_)) => "refused_by_client",
            Some(_) => "tls",
            None => "io",
        }
    }
}

struct Listener {
    acceptor: TlsAcceptor,
    trust_domain: TrustDomain,
    metrics: Metrics,
    out: mpsc::Sender<Connection>,
}

/// Accepts until told to stop; finished handshakes come out of the channel.
pub(super) fn start(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    tls: &ServerIdentity,
    stop: CancellationToken,
) -> mpsc::Receiver<Connection> {
    let (out, accepted) = mpsc::channel(64);
    let shared = Arc::new(Listener {
        acceptor: TlsAcceptor::from(config),
        trust_domain: tls.identity.trust_domain().clone(),
        metrics: tls.metrics.clone(),
        out,
    });
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.run(listener) => {}
        }
    });
    accepted
}

impl Listener {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
        loop {
            let (Ok(slot), Ok(turn)) = (
                connections.clone().acquire_owned().await,
                handshakes.clone().acquire_owned().await,
            ) else {
                return;
            };
            match listener.accept().await {
                Ok((tcp, address)) => {
                    let this = self.clone();
                    tokio::spawn(async move {
                        this.greet(tcp, address, slot).await;
                        drop(turn);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: waiting lets some be closed.
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn greet(&self, tcp: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        match self.handshake(tcp).await {
            Ok((io, identity)) => {
                self.metrics.handshake("ok");
                let connection = Connection {
                    io,
                    peer: Peer { identity, address },
                    _slot: slot,
                };
                // Fails only when the server is ending.
                let _ = self.out.send(connection).await;
            }
            Err(closed) => {
                self.metrics.handshake("failed");
                self.metrics.protocol_error(closed.word());
                tracing::info!(%address, reason = closed.word(), error = %closed, "connection closed");
            }
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<Identity>), Closed> {
        tcp.set_nodelay(true).map_err(Closed::Handshake)?;
        let io = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(tcp))
            .await
            .map_err(|_| Closed::Timeout)?
            .map_err(Closed::Handshake)?;
        let leaf = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let identity = leaf
            .map(|leaf| identity_of(leaf, &self.trust_domain))
            .transpose()?;
        Ok((io, identity))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
