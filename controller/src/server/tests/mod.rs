//! The server over loopback, with real TLS and real gRPC: who gets in, as whom, and what bad
//! connections do.

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

use super::{PeerIdentity, serve};
use crate::identity::tests::{DAY, identity, now, request, trust, uri};
use crate::identity::{Metrics, ServerIdentity, Trust};

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
async fn client_is_identified_by_its_certificate() {
    let server = server().await;
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    assert_eq!(ask(&mut stream).await, [BOB]);
}

#[tokio::test]
async fn without_a_certificate_only_the_certificate_authority_answers() {
    let server = server().await;
    let refused = subscribe(server.channel(None).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut authority = CertificateAuthorityClient::new(server.channel(None).await);
    let status = authority.sign(SignRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("127.0.0.1"), "{status}");
    let huge = SignRequest {
        csr: vec![0; 100_000].into(),
        token: String::new(),
    };
    let again = authority.sign(huge.clone()).await.unwrap_err();
    assert_eq!(again.code(), Code::ResourceExhausted, "{again}");
    let mut authority = CertificateAuthorityClient::new(server.channel(None).await);
    let status = authority.sign(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

/// A proxy's stream, from the beginning of its connection to its first update.
async fn honest(server: &Server) -> Duration {
    let begun = Instant::now();
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    assert_eq!(ask(&mut stream).await, [BOB]);
    begun.elapsed()
}

#[tokio::test]
async fn silent_connections_do_not_delay_proxies() {
    let server = server().await;
    let mut held = Vec::new();
    for turn in 0..1100_u16 {
        // From one source, then from many.
        let source = Ipv4Addr::new(127, 0, 1, (turn.saturating_sub(300) / 4) as u8);
        held.push(connect(source, server.address).await.unwrap());
    }
    let took = honest(&server).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(server.rejected.count("grpc", "source_limit") >= 300 - 64);
}

#[tokio::test]
async fn connections_without_a_certificate_do_not_delay_proxies() {
    let server = server().await;
    let open = server.channel(Some(server.shown("bob"))).await;
    let mut open = subscribe(open).await.unwrap();
    let mut held = Vec::new();
    for turn in 0..560_u16 {
        let source = Ipv4Addr::new(127, 0, 1, (turn / 16) as u8);
        held.push(server.tls_from(source, None).await.unwrap());
    }
    let took = honest(&server).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(ask(&mut open).await, [BOB]);
    let from_one = Ipv4Addr::new(127, 0, 2, 1);
    for _ in 0..20 {
        held.push(server.tls_from(from_one, None).await.unwrap());
    }
    until(|| server.rejected.count("grpc", "source_limit") >= 4).await;
    assert!(server.rejected.count("grpc", "limit") > 0);
    // The one that gave way first is closed.
    let mut rest = Vec::new();
    let closed = timeout(BOUND, held[0].read_to_end(&mut rest));
    assert!(closed.await.is_ok());
}

#[tokio::test]
async fn foreign_client_certificates_are_rejected() {
    let server = server().await;
    assert!(server.takes(server.shown("bob")).await);

    let other_root = trust();
    assert!(!server.takes(shown_by(&other_root, "bob")).await);

    let key = KeyPair::generate().unwrap();
    let long_ago = now() - time::Duration::seconds(50);
    let short = Duration::from_secs(1);
    let ended = server
        .trust()
        .authority
        .sign(&key, &identity("shop", "bob"), short, long_ago)
        .unwrap();
    assert!(!server.takes((ended.chain, key.into())).await);
    assert_eq!(server.metrics.handshakes("failed"), 2);
}

/// A server whose root's key the test holds, to sign what the authority never would.
async fn with_open_root() -> (Server, rcgen::Issuer<'static, KeyPair>) {
    let server = server().await;
    let root = crate::identity::new_root(now()).unwrap();
    let key = KeyPair::from_pem(&root.key).unwrap();
    let next = crate::identity::tests::read(&root).unwrap();
    server.trust.send_replace(Arc::new(next));
    let issuer = rcgen::Issuer::from_ca_cert_pem(&root.certificate, key).unwrap();
    (server, issuer)
}

#[tokio::test]
async fn client_certificate_must_name_one_identity_of_this_mesh() {
    let (server, issuer) = with_open_root().await;
    let shown = |names: &[&str], usage| {
        let key = KeyPair::generate().unwrap();
        let mut params: CertificateParams = request(names.iter().map(|n| uri(n)).collect());
        params.not_before = now() - time::Duration::minutes(1);
        params.not_after = now() + time::Duration::minutes(1);
        params.extended_key_usages = vec![usage];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (vec![leaf.der().clone()], PrivateKeyDer::from(key))
    };
    let client = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let other = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    // The new root must be in force before the server's own certificate can be verified.
    timeout(BOUND, async { while server.tls(None).await.is_err() {} })
        .await
        .expect("the new root's certificate is served");
    assert!(server.takes(shown(&[BOB], client.clone())).await);
    for names in [
        &[][..],
        &[BOB, BOB],
        &[BOB, "https://example.com/"],
        &["https://example.com/"],
        &["spiffe://other.domain/ns/shop/sa/bob"],
        &["spiffe://cluster.local/bob"],
    ] {
        assert!(
            !server.takes(shown(names, client.clone())).await,
            "{names:?}"
        );
    }
    assert!(!server.takes(shown(&[BOB], other)).await);
}

#[tokio::test]
async fn garbage_is_closed_and_counted() {
    let server = server().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff\xff\xff\xff",
        &[0u8; 4096],
    ] {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed, or reset because of what was not read.
        let _ = tcp.read_to_end(&mut answer).await;
    }
    until(|| server.metrics.handshakes("failed") == 3).await;
    // Not HTTP/2 inside good TLS: this connection ends, others do not.
    let mut io = server.tls(Some(server.shown("bob"))).await.unwrap();
    io.write_all(&[0xff; 64]).await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    // A silent connection delays no other.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    assert_eq!(ask(&mut stream).await, [BOB]);
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let server = server().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(DNS).unwrap();
    let refused = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
}

fn served(io: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    io.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn new_root_replaces_the_certificate_and_keeps_connections() {
    let server = server().await;
    let before = served(&server.tls(None).await.unwrap());
    let bob = server.shown("bob");
    let channel = server
        .channel(Some((bob.0.clone(), bob.1.clone_key())))
        .await;
    let mut open = subscribe(channel).await.unwrap();
    ask(&mut open).await;

    let old_root = server.trust().authority.root().clone();
    let next = trust().succeeding(&server.trust(), now()).unwrap();
    server.trust.send_replace(Arc::new(next));
    let replaced = async {
        loop {
            let now = served(&server.tls(None).await.unwrap());
            if now != before {
                return now;
            }
        }
    };
    let new = timeout(BOUND, replaced).await.expect("replaced");
    let only_new = crate::identity::Bundle::of([server.trust().authority.root().clone()]).unwrap();
    let usage = webpki::KeyUsage::server_auth();
    only_new.verify(&new, &[], usage, now()).unwrap();
    assert_ne!(&old_root, server.trust().authority.root());
    // The open stream continues, and a certificate of the old root is still accepted.
    assert_eq!(ask(&mut open).await, [BOB]);
    let mut again = subscribe(server.channel(Some(bob)).await).await.unwrap();
    assert_eq!(ask(&mut again).await, [BOB]);
}

#[tokio::test]
async fn certificate_is_renewed_at_seventy_percent_of_its_lifetime() {
    let (_sender, receiver) = watch::channel(Arc::new(trust()));
    let tls = ServerIdentity {
        trust: receiver,
        identity: identity("weft-system", "weft-controller"),
        dns_names: vec![DNS.to_owned()],
        lifetime: Duration::from_secs(1000),
        metrics: Metrics::default(),
    };
    let start: OffsetDateTime = now();
    let serving = crate::identity::Serving::new(&tls, start).unwrap();
    let at = |seconds| start + time::Duration::seconds(seconds);
    assert!(!serving.refresh(&tls, at(699)).unwrap());
    assert!(serving.refresh(&tls, at(701)).unwrap());
    assert!(!serving.refresh(&tls, at(702)).unwrap());
    assert!(serving.refresh(&tls, at(701 + 701)).unwrap());
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
