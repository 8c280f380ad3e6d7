//! The server over loopback, with real TLS and real gRPC: who gets in, as whom, and what bad
//! connections do.

mod clients;
mod own_certificate;
mod strangers;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use weft_accept::Port;
use weft_api::proto::certificate_authority_client::CertificateAuthorityClient;
use weft_api::proto::certificate_authority_server::CertificateAuthority;
use weft_api::proto::mesh_client::MeshClient;
use weft_api::proto::mesh_server::Mesh;
use weft_api::proto::{ProxyMessage, SignRequest, SignResponse, Update};

use super::serve;
use crate::identity::PeerIdentity;
use crate::identity::tests::{DAY, identity, now, request, trust, uri};
use crate::identity::{HandshakeResult, Metrics, ServerIdentity, Trust};

const DNS: &str = "weft-controller.weft-system.svc";
/// Longer than anything here takes.
const BOUND: Duration = Duration::from_secs(10);
const BOB: &str = "spiffe://cluster.local/ns/shop/sa/bob";

/// Answers each message with an update whose removed keys name the caller.
struct WhoAmI;

#[tonic::async_trait]
impl Mesh for WhoAmI {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let who = match request.extensions().get::<PeerIdentity>() {
            Some(peer) => match &peer.proven {
                Some(proven) => proven.identity.to_string(),
                None => return Err(Status::unauthenticated("no certificate")),
            },
            None => return Err(Status::internal("no extension")),
        };
        let answers = tokio_stream::StreamExt::map(request.into_inner(), move |message| {
            message.map(|_| Update {
                removed: vec![who.clone()],
                ..Update::default()
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Says from where it was asked.
struct Address;

#[tonic::async_trait]
impl CertificateAuthority for Address {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let from = request.remote_addr();
        Err(Status::unauthenticated(format!("{from:?}")))
    }
}

struct Server {
    address: SocketAddr,
    trust: watch::Sender<Arc<Trust>>,
    metrics: Metrics,
    rejected: weft_accept::Metrics,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Result<(), super::ServeError>>,
}

async fn server() -> Server {
    let (sender, receiver) = watch::channel(Arc::new(trust()));
    let metrics = Metrics::default();
    let tls = ServerIdentity {
        trust: receiver,
        identity: identity("weft-system", "weft-controller"),
        dns_names: vec![DNS.to_owned()],
        lifetime: DAY,
        metrics: metrics.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let rejected = weft_accept::Metrics::default();
    let port = Port::new("grpc", &rejected);
    let ending = stop.clone();
    let done =
        tokio::spawn(async move { serve(listener, &port, tls, WhoAmI, Address, ending).await });
    Server {
        address,
        trust: sender,
        metrics,
        rejected,
        stop,
        done,
    }
}

/// Each address of 127.0.0.0/8 is a source of its own.
async fn connect(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(to).await
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Server {
    fn trust(&self) -> Arc<Trust> {
        self.trust.borrow().clone()
    }

    async fn tls(&self, shown: Option<Shown>) -> io::Result<TlsStream<TcpStream>> {
        self.tls_from(Ipv4Addr::LOCALHOST, shown).await
    }

    async fn tls_from(
        &self,
        source: Ipv4Addr,
        shown: Option<Shown>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for root in self.trust().roots.valid_at(now()) {
            roots.add(root.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = connect(source, self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(DNS).unwrap(), tcp)
            .await
    }

    async fn channel(&self, shown: Option<Shown>) -> Channel {
        let mut io = Some(TokioIo::new(self.tls(shown).await.unwrap()));
        Endpoint::from_static("http://controller")
            .connect_with_connector(tower::service_fn(move |_| {
                let io = io.take();
                async move { io.ok_or_else(|| io::Error::other("one connection only")) }
            }))
            .await
            .unwrap()
    }

    /// Whether the server takes the certificate: in TLS 1.3 the client learns of a refusal with its
    /// first read.
    async fn takes(&self, shown: Shown) -> bool {
        let mut io = self.tls(Some(shown)).await.unwrap();
        let mut first = [0u8; 1];
        // An HTTP/2 server begins with its settings.
        matches!(io.read(&mut first).await, Ok(1))
    }

    fn shown(&self, name: &str) -> Shown {
        shown_by(&self.trust(), name)
    }
}

fn shown_by(trust: &Trust, account: &str) -> Shown {
    let key = KeyPair::generate().unwrap();
    let who = identity("shop", account);
    let issued = trust.authority.sign(&key, &who, DAY, now()).unwrap();
    (issued.chain, key.into())
}

/// Opens a Subscribe stream; the sender keeps it open.
async fn subscribe(
    channel: Channel,
) -> Result<(mpsc::Sender<ProxyMessage>, Streaming<Update>), Status> {
    let (sender, messages) = mpsc::channel(4);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let updates = MeshClient::new(channel).subscribe(messages).await?;
    Ok((sender, updates.into_inner()))
}

async fn ask(stream: &mut (mpsc::Sender<ProxyMessage>, Streaming<Update>)) -> Vec<String> {
    stream.0.send(ProxyMessage::default()).await.unwrap();
    stream.1.message().await.unwrap().unwrap().removed
}

/// Waits for what another task is about to do.
async fn until(what: impl Fn() -> bool) {
    timeout(BOUND, async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it happens");
}

#[tokio::test]
async fn shutdown_lets_open_streams_end() {
    let server = server().await;
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    ask(&mut stream).await;
    server.stop.cancel();
    // A stream that was open is still served, then ended by its client.
    assert_eq!(ask(&mut stream).await, [BOB]);
    drop(stream);
    server.done.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
