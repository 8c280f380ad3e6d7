//! Opens connections: TCP, and mutual TLS over it where the endpoint has a proxy.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::InvalidMessage;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Peer, Shared};
use crate::batch::Gathered;
use crate::telemetry::requests::Direction;
use crate::tls::handshake_failure;

/// Time for TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for TCP alone, one lost SYN included: what is silent for longer is mostly an address that is nobody's any more,
/// and the request has time left for another endpoint.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries at an endpoint that answers mutual TLS in plain text. A permissive proxy that waited long for our first bytes,
/// because one of us got no processor, lets its application speak first; the next try finds it waiting anew.
const PLAIN_ANSWERS: usize = 3;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connecting to {address}: {cause}")]
    Tcp { address: SocketAddr, cause: String },
    #[error("connecting to {0}: nothing came back within 5 s")]
    Timeout(SocketAddr),
    #[error("mutual TLS with {address}, which must be {expected}: {cause}")]
    Tls {
        address: SocketAddr,
        expected: String,
        cause: String,
    },
    #[error("mutual TLS with {address}, which must be {expected}: it answered in plain text")]
    PlainAnswer {
        address: SocketAddr,
        expected: String,
    },
    #[error("HTTP with {address}: {cause}")]
    Http { address: SocketAddr, cause: String },
}

/// A connection to an endpoint.
pub enum Transport {
    Plain(TcpStream),
    Mesh(Box<TlsStream<Gathered<TcpStream>>>),
}

impl Shared {
    /// Connects to `peer`; where it has a proxy, by mutual TLS with `alpn`.
    pub async fn connect(
        &self,
        peer: &Peer,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let address = peer.address;
        let transport = timeout(CONNECT_TIMEOUT, self.connect_unbounded(peer, alpn))
            .await
            .unwrap_or(Err(ConnectError::Timeout(address)))?;
        peer.reached();
        Ok(transport)
    }

    async fn connect_unbounded(
        &self,
        peer: &Peer,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let mut tries = 1;
        loop {
            match self.connect_once(peer, alpn).await {
                Err(ConnectError::PlainAnswer { .. }) if tries < PLAIN_ANSWERS => tries += 1,
                done => return done,
            }
        }
    }

    async fn connect_once(
        &self,
        peer: &Peer,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let address = peer.address;
        let tcp = timeout(TCP_TIMEOUT, open(address)).await;
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing came back within 2 s");
        let tcp = tcp.map_err(silent).flatten();
        let tcp = tcp.map_err(|error| ConnectError::Tcp {
            address,
            cause: error.to_string(),
        })?;
        let Some(expected) = &peer.identity else {
            return Ok(Transport::Plain(tcp));
        };
        let refuse = |cause: String| ConnectError::Tls {
            address,
            expected: expected.to_string(),
            cause,
        };
        let config = self
            .tls
            .client_config(expected, alpn)
            .map_err(|error| refuse(error.to_string()))?;
        let name = ServerName::IpAddress(address.ip().into());
        let opened = TlsConnector::from(config)
            .connect(name, Gathered::new(tcp))
            .await;
        let result = opened.as_ref().map_or_else(handshake_failure, |_| "ok");
        self.metrics.handshake(Direction::Outbound, result);
        let stream = opened.map_err(|error| {
            if is_plain_text(&error) {
                let expected = expected.to_string();
                return ConnectError::PlainAnswer { address, expected };
            }
            refuse(error.to_string())
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(alpn) {
            return Err(refuse("the peer does not speak as proxies do".to_owned()));
        }
        Ok(Transport::Mesh(Box::new(stream)))
    }
}

/// What came is no TLS record.
fn is_plain_text(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|e| e.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion
        ))
    )
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    crate::tcp::keep_alive(SockRef::from(&stream))?;
    Ok(stream)
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Mesh(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Mesh(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Mesh(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Mesh(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
