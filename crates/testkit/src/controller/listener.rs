//! The server side: a port that can be closed and paused, followed by TLS and the gRPC server.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use anyhow::{Context, Result};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::Connected;
use weft_api::proto::certificate_authority_server::CertificateAuthorityServer;
use weft_api::proto::mesh_server::MeshServer;

use super::Shared;
use super::mesh::Services;
use crate::pki::{Leaf, Pki};

/// A port on loopback whose connections are forwarded through a pipe.
pub(super) struct PausablePort {
    address: SocketAddr,
    incoming: mpsc::UnboundedSender<DuplexStream>,
    paused: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl PausablePort {
    pub(super) async fn open(
        address: SocketAddr,
        incoming: mpsc::UnboundedSender<DuplexStream>,
    ) -> Result<Self> {
        let mut port = Self {
            address,
            incoming,
            paused: watch::Sender::new(false),
            tasks: JoinSet::new(),
        };
        port.reopen().await?;
        Ok(port)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn reopen(&mut self) -> Result<()> {
        self.close();
        // The tasks hold the port until they have ended.
        while self.tasks.join_next().await.is_some() {}
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("listening on {}", self.address))?;
        self.address = listener.local_addr()?;
        let (incoming, paused) = (self.incoming.clone(), self.paused.subscribe());
        self.tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (near, far) = tokio::io::duplex(64 << 10);
                if incoming.send(far).is_err() {
                    return;
                }
                relays.spawn(relay(tcp, near, paused.clone()));
            }
        });
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.tasks.abort_all();
    }

    pub(super) fn hang(&self, paused: bool) {
        self.paused.send_replace(paused);
    }
}

async fn relay(mut tcp: TcpStream, near: DuplexStream, paused: watch::Receiver<bool>) {
    let _ = tcp.set_nodelay(true);
    let (tcp_in, tcp_out) = tcp.split();
    let (near_in, near_out) = tokio::io::split(near);
    // The connection ends when either direction ends.
    tokio::select! {
        _ = copy(tcp_in, near_out, paused.clone()) => {}
        _ = copy(near_in, tcp_out, paused) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut paused: watch::Receiver<bool>,
) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        paused.wait_for(|paused| !paused).await?;
        to.write_all(&buffer[..read]).await?;
    }
}

/// Starts the server for the connections that are sent to it.
pub(super) fn serve(
    pki: &Pki,
    leaf: Leaf,
    shared: Arc<Shared>,
) -> Result<mpsc::UnboundedSender<DuplexStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.root())?;
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    );
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients.allow_unauthenticated().build()?)
        .with_single_cert(leaf.chain, leaf.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let (incoming, mut accepted) = mpsc::unbounded_channel::<DuplexStream>();
    let (established, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(pipe) = accepted.recv().await {
            let (acceptor, established) = (acceptor.clone(), established.clone());
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(pipe).await {
                    let _ = established.send(Ok::<_, std::io::Error>(TlsConnection(tls)));
                }
            });
        }
    });
    let services = Services(shared);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(MeshServer::new(services.clone()))
            .add_service(CertificateAuthorityServer::new(services))
            .serve_with_incoming(UnboundedReceiverStream::new(connections)),
    );
    Ok(incoming)
}

/// The client's leaf certificate, if it presented one.
#[derive(Clone)]
pub(super) struct PeerCertificate(pub(super) Option<CertificateDer<'static>>);

struct TlsConnection(TlsStream<DuplexStream>);

impl Connected for TlsConnection {
    type ConnectInfo = PeerCertificate;

    fn connect_info(&self) -> PeerCertificate {
        let chain = self.0.get_ref().1.peer_certificates();
        let leaf = chain.and_then(<[_]>::first);
        PeerCertificate(leaf.map(|leaf| leaf.clone().into_owned()))
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
