//! Opens connections: TCP, mutual TLS over it if the endpoint has a proxy, and TLS with the
//! application over either if a policy says so.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::{AlertDescription, InvalidMessage};
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_api::alpn;
use weft_ir::ConnectTimeout;

use super::{Endpoint, EndpointRegistry};
use crate::net::cork::BufferedReads;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::Direction;
use crate::tls::backend::Backend;
use crate::tls::{handshake_result, handshake_words};

/// Time for TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for TCP alone, one lost SYN included: an address that is silent for longer is mostly
/// nobody's any more, and the request has time left for another endpoint.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// After this long without a connection the endpoint is ejected, while this attempt goes on
/// waiting.
const SLOW_CONNECT: Duration = Duration::from_millis(300);
/// TCP_USER_TIMEOUT towards proxies over HTTP/2: the machine, or the way to it, is gone.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(3);
/// TCP_USER_TIMEOUT towards applications, which may stop reading for a while: the kernel counts
/// that too. With [`APP_KEEPALIVE`] in place of HTTP/2's pings, which some applications take for an
/// attack.
const APP_UNACKNOWLEDGED: Duration = Duration::from_secs(13);
const APP_KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(10))
    .with_interval(Duration::from_secs(1));
/// Attempts at an endpoint that answers mutual TLS in plain text. A permissive proxy that waited
/// long for our first bytes, because one of us got no processor, lets its application speak first;
/// the next attempt finds it waiting anew.
const MAX_PLAINTEXT_ATTEMPTS: u32 = 8;
/// The pause before the second attempt, doubled before each further one.
const PLAINTEXT_BACKOFF: Duration = Duration::from_millis(2);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connecting to {address}: {cause}")]
    Tcp { address: SocketAddr, cause: String },
    #[error("connecting to {0}: nothing came back within {1:?}")]
    Timeout(SocketAddr, Duration),
    #[error("mutual TLS with {address}, which must be {expected}: {cause}")]
    Tls {
        address: SocketAddr,
        expected: String,
        cause: String,
    },
    #[error("mutual TLS with {address}, which must be {expected}: it answered in plain text")]
    PlaintextResponse {
        address: SocketAddr,
        expected: String,
    },
    #[error("TLS with {address} as {hostname} (roots: {roots}): {cause}")]
    Backend {
        address: SocketAddr,
        hostname: Arc<str>,
        roots: Box<str>,
        cause: String,
    },
    #[error("HTTP with {address}: {cause}")]
    Http { address: SocketAddr, cause: String },
}

impl ConnectError {
    pub fn error_type(&self) -> ErrorType {
        match self {
            Self::Tcp { .. } => ErrorType::ConnectFailed,
            Self::Timeout(..) => ErrorType::ConnectTimeout,
            Self::Tls { .. } | Self::PlaintextResponse { .. } | Self::Backend { .. } => {
                ErrorType::UpstreamTls
            }
            Self::Http { .. } => ErrorType::UpstreamProtocol,
        }
    }
}

/// A connection to an endpoint.
pub enum Transport {
    Plain(TcpStream),
    Mesh(Box<TlsStream<BufferedReads<TcpStream>>>),
    /// TLS with the application itself, over one of the other two.
    Backend(Box<TlsStream<BufferedReads<Transport>>>),
}

impl Transport {
    /// Returns true if the peer has neither closed the connection nor sent anything that is still
    /// unread.
    pub(super) fn is_quiet(&self) -> bool {
        let peeked = SockRef::from(self.tcp()).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Mesh(stream) => stream.get_ref().0.get_ref(),
            Self::Backend(stream) => stream.get_ref().0.get_ref().tcp(),
        }
    }

    /// Returns true if the application negotiated HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Backend(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2"))
    }
}

impl Endpoint {
    /// Waits for a connection, at most this long. One that is opened for several requests goes on
    /// without this one.
    pub(super) async fn within<T>(
        &self,
        limit: Option<ConnectTimeout>,
        connecting: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        match limit.map(ConnectTimeout::get) {
            None => connecting.await,
            Some(limit) => timeout(limit, connecting)
                .await
                .unwrap_or(Err(ConnectError::Timeout(self.address, limit))),
        }
    }
}

impl EndpointRegistry {
    /// Connects to `endpoint`: by mutual TLS with `alpn` if it has a proxy; if its application
    /// speaks TLS, by TLS that offers what corresponds to `alpn` (see [`Backend::config`]), inside
    /// mutual TLS as bytes.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        self.connect_with(endpoint, endpoint.tls.as_deref(), alpn)
            .await
    }

    /// As [`EndpointRegistry::connect`], for bytes that are TLS with the application already.
    pub async fn connect_through(&self, endpoint: &Endpoint) -> Result<Transport, ConnectError> {
        self.connect_with(endpoint, None, alpn::TCP).await
    }

    async fn connect_with(
        &self,
        endpoint: &Endpoint,
        backend: Option<&Backend>,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let address = endpoint.address;
        // Boxed, so that the handshake's state is freed once connected instead of growing every
        // caller's future.
        let connecting = self.connect_without_timeout(endpoint, backend, alpn);
        let mut connecting = Box::pin(timeout(CONNECT_TIMEOUT, connecting));
        let connected = match timeout(SLOW_CONNECT, &mut connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                self.eject(endpoint);
                connecting.await
            }
        };
        let transport =
            connected.unwrap_or(Err(ConnectError::Timeout(address, CONNECT_TIMEOUT)))?;
        endpoint.mark_reachable();
        Ok(transport)
    }

    async fn connect_without_timeout(
        &self,
        endpoint: &Endpoint,
        backend: Option<&Backend>,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let mesh_alpn = match backend {
            Some(_) => alpn::TCP,
            None => alpn,
        };
        let mut attempts = 1;
        let transport = loop {
            match self.connect_once(endpoint, mesh_alpn).await {
                Err(ConnectError::PlaintextResponse { .. })
                    if attempts < MAX_PLAINTEXT_ATTEMPTS =>
                {
                    tokio::time::sleep(PLAINTEXT_BACKOFF * (1 << (attempts - 1))).await;
                    attempts += 1;
                }
                done => break done?,
            }
        };
        match backend {
            None => Ok(transport),
            Some(backend) => {
                self.connect_backend(endpoint, backend, transport, alpn)
                    .await
            }
        }
    }

    async fn connect_once(
        &self,
        endpoint: &Endpoint,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let address = endpoint.address;
        let tcp = timeout(TCP_TIMEOUT, connect_tcp(endpoint, alpn)).await;
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing came back within 2 s");
        let tcp = tcp.map_err(silent).flatten();
        let tcp = tcp.map_err(|error| ConnectError::Tcp {
            address,
            cause: error.to_string(),
        })?;
        let Some(expected) = &endpoint.identity else {
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
        let connected = TlsConnector::from(config)
            .connect(name, BufferedReads::new(tcp))
            .await;
        let result = handshake_result(&connected);
        self.metrics.handshake(Direction::Outbound, result);
        let stream = connected.map_err(|error| {
            if is_plaintext(&error) {
                let expected = expected.to_string();
                return ConnectError::PlaintextResponse { address, expected };
            }
            refuse(error.to_string())
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(alpn) {
            return Err(refuse("the peer does not speak as proxies do".to_owned()));
        }
        Ok(Transport::Mesh(Box::new(stream)))
    }
}

impl EndpointRegistry {
    /// Opens TLS with the application over an open connection.
    async fn connect_backend(
        &self,
        endpoint: &Endpoint,
        backend: &Backend,
        transport: Transport,
        alpn: &'static [u8],
    ) -> Result<Transport, ConnectError> {
        let refuse = |cause: &str| ConnectError::Backend {
            address: endpoint.address,
            hostname: backend.hostname.clone(),
            roots: backend.roots.clone(),
            cause: cause.to_owned(),
        };
        let (config, name) = backend.config(alpn).map_err(refuse)?;
        let connected = TlsConnector::from(config)
            .connect(name, BufferedReads::new(transport))
            .await;
        let result = handshake_result(&connected);
        self.metrics.backend_handshake(result);
        let stream = connected.map_err(|error| {
            if is_no_common_alpn(&error) {
                endpoint.negotiated.forget();
            }
            refuse(&handshake_words(&error))
        })?;
        let transport = Transport::Backend(Box::new(stream));
        if alpn == alpn::H2 && !transport.is_http2() {
            endpoint.negotiated.forget();
            return Err(refuse("it does not speak HTTP/2"));
        }
        Ok(transport)
    }
}

/// Returns true if the server has none of the offered protocols.
fn is_no_common_alpn(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|e| e.downcast_ref());
    let none = AlertDescription::NoApplicationProtocol;
    matches!(cause, Some(rustls::Error::AlertReceived(alert)) if *alert == none)
}

/// Returns true if what came is no TLS record.
fn is_plaintext(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|e| e.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion
        ))
    )
}

async fn connect_tcp(endpoint: &Endpoint, alpn: &[u8]) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(endpoint.address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    // A peer of bytes or HTTP/1.1 may stop reading for as long as it likes; HTTP/2 is always read.
    let http2 = alpn == alpn::H2 || alpn == alpn::H2_FOR_H1;
    match (http2, endpoint.is_proxy()) {
        (true, true) => socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?,
        (true, false) => {
            socket.set_tcp_user_timeout(Some(APP_UNACKNOWLEDGED))?;
            socket.set_tcp_keepalive(&APP_KEEPALIVE)?;
        }
        (false, _) => crate::net::tcp::set_keepalive(socket)?,
    }
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
            Self::Backend(stream) => Pin::new(stream).poll_read(cx, buffer),
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
            Self::Backend(stream) => Pin::new(stream).poll_write(cx, bytes),
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
            Self::Backend(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Mesh(stream) => stream.is_write_vectored(),
            Self::Backend(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_flush(cx),
            Self::Backend(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Backend(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
