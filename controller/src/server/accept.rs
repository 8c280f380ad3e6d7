//! Accepts connections and performs their TLS handshakes, bounded in time and number; failures are
//! counted.
//!
//! Handshakes run concurrently. Beyond the bound the oldest is closed, so that slow clients delay
//! nobody. Independent of gRPC.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use weft_accept::{Place, Port, Throttle};
use weft_ir::TrustDomain;

use super::calls::{Peer, Pools};
use crate::identity::{
    HandshakeResult, Metrics, PeerError, Proven, ServerIdentity, end_of_validity, identity_of,
};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Log lines about failed handshakes: a burst, and one more each second.
const LOG_BURST: u32 = 10;
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A connection after its handshake.
pub(super) struct Connection {
    io: TlsStream<TcpStream>,
    peer: Peer,
    /// Resolves when the connection must be closed; `None` afterwards.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Why a connection was closed before its first request.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the TLS handshake did not complete within {} s", HANDSHAKE.as_secs())]
    Timeout,
    #[error(transparent)]
    Handshake(io::Error),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl HandshakeError {
    /// The label `reason` of the metric.
    fn reason(&self) -> &'static str {
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
    pools: Arc<Pools>,
    log_throttle: Throttle,
    out: mpsc::Sender<Connection>,
}

/// Accepts connections until `stop`; the channel yields those that have completed their handshake.
pub(super) fn start(
    listener: TcpListener,
    port: &Port,
    config: Arc<ServerConfig>,
    tls: &ServerIdentity,
    stop: CancellationToken,
) -> mpsc::Receiver<Connection> {
    let (out, accepted) = mpsc::channel(64);
    let shared = Arc::new(Listener {
        acceptor: TlsAcceptor::from(config),
        trust_domain: tls.identity.trust_domain().clone(),
        metrics: tls.metrics.clone(),
        pools: Arc::new(Pools::new(port)),
        log_throttle: Throttle::new(LOG_BURST, LOG_INTERVAL),
        out,
    });
    let port = port.clone();
    tokio::spawn(async move {
        let accepting = shared.run(&listener, &port);
        stop.run_until_cancelled(accepting).await;
    });
    accepted
}

impl Listener {
    async fn run(self: Arc<Self>, listener: &TcpListener, port: &Port) -> Infallible {
        let authenticate = |tcp, address: SocketAddr| {
            let place = self.pools.handshakes.enter(address.ip());
            let this = self.clone();
            tokio::spawn(async move {
                let lost = place.token().clone();
                lost.run_until_cancelled(this.authenticate(tcp, address, place))
                    .await;
            });
        };
        weft_accept::accept(listener, port, &[&self.pools.handshakes], authenticate).await
    }

    async fn authenticate(&self, tcp: TcpStream, address: SocketAddr, place: Place) {
        match self.handshake(tcp).await {
            Ok((io, proven)) => {
                self.metrics.handshake(HandshakeResult::Ok);
                let peer = Peer::new(proven, address, self.pools.clone(), place);
                let connection = Connection {
                    io,
                    over: Some(Box::pin(peer.clone().over())),
                    peer,
                };
                // Fails only when the server stops.
                let _ = self.out.send(connection).await;
            }
            Err(error) => {
                self.metrics.handshake(HandshakeResult::Failed);
                self.metrics.protocol_error(error.reason());
                let reason = error.reason();
                if let Some(unlogged) = self.log_throttle.pass() {
                    tracing::info!(%address, reason, %error, unlogged, "connection closed");
                }
            }
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<Proven>), HandshakeError> {
        let io = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(tcp))
            .await
            .map_err(|_| HandshakeError::Timeout)?
            .map_err(HandshakeError::Handshake)?;
        let leaf = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let proven = leaf.map(|leaf| {
            Ok::<_, PeerError>(Proven {
                identity: identity_of(leaf, &self.trust_domain)?,
                until: end_of_validity(leaf)?,
            })
        });
        let proven = proven.transpose()?;
        Ok((io, proven))
    }
}

impl Connection {
    /// Returns an error once the connection must be closed. Checked by reads and writes, so that a
    /// client that does not read is closed too.
    fn still_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(over) = &mut self.over {
            if over.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.over = None;
        }
        let words = "closed because it was idle, its certificate expired, or another connection took its place";
        Err(io::Error::new(io::ErrorKind::TimedOut, words))
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
        self.still_open(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.still_open(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.still_open(cx)?;
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
        self.still_open(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
