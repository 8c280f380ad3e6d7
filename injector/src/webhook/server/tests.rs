//! The webhook over loopback, with TLS: more clients than places, and API servers that get through.

use std::net::Ipv4Addr;
use std::time::Instant;

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{self, SendRequest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::super::admission::tests::webhook;
use super::super::certificate::WebhookCertificate;
use super::*;

const NAME: &str = "weft-injector.weft-system.svc";
const API_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

struct Running {
    at: SocketAddr,
    client: TlsConnector,
    metrics: Arc<Metrics>,
}

async fn start() -> Running {
    let now = OffsetDateTime::now_utc();
    let day = Duration::from_secs(86_400);
    let made = WebhookCertificate::generate(&[NAME.to_owned()], day, now, None).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(made.bundle().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let served = Arc::new(ServedCertificate::default());
    served.set(&made);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let webhook = webhook();
    let metrics = webhook.metrics.clone();
    let config = tls(served, None).unwrap();
    tokio::spawn(serve(listener, config, webhook, CancellationToken::new()));
    Running {
        at,
        client: TlsConnector::from(Arc::new(client)),
        metrics,
    }
}

impl Running {
    /// An HTTP/2 connection, whose pings are answered until the other side ends it.
    async fn connect(&self, from: Ipv4Addr) -> SendRequest<Body> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let tcp = socket.connect(self.at).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let stream = self.client.connect(name, tcp).await.unwrap();
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// What an API server does that has no connection.
    async fn mutate(&self) -> Duration {
        let begun = Instant::now();
        let mut sender = self.connect(API_SERVER).await;
        mutate(&mut sender).await;
        begun.elapsed()
    }
}

async fn mutate(sender: &mut SendRequest<Body>) {
    let request = http::Request::post(format!("https://{NAME}/mutate"))
        .body(Body::from("{}"))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    // The body is not a review, but the request is answered.
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    response.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn idle_connections_of_one_source_do_not_delay_api_servers() {
    let server = start().await;
    let mut held = Vec::new();
    for _ in 0..512 {
        held.push(server.connect(Ipv4Addr::new(127, 0, 1, 1)).await);
    }
    let took = server.mutate().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(server.metrics.rejected.count("webhook", "source_limit") >= 512 - 32);
}

/// The answer to a request whose body has no known length and does not end.
async fn unended(sender: &mut SendRequest<Body>) -> tokio::task::JoinHandle<StatusCode> {
    let body = Body::from_stream(futures::stream::pending::<Result<&[u8], std::io::Error>>());
    let request = http::Request::post(format!("https://{NAME}/mutate")).body(body);
    sender.ready().await.unwrap();
    let answer = sender.send_request(request.unwrap());
    tokio::spawn(async { answer.await.unwrap().status() })
}

#[tokio::test]
async fn large_bodies_are_limited_and_the_oldest_is_closed() {
    let server = start().await;
    let mut held = Vec::new();
    for last in 1..=8 {
        let mut sender = server.connect(Ipv4Addr::new(127, 0, 1, last)).await;
        for _ in 0..4 {
            held.push((sender.clone(), unended(&mut sender).await));
        }
    }
    // 32 of which 24 may be under way, from whatever source.
    let given_way = futures::future::select_all(held.iter_mut().map(|(_, answer)| answer)).await;
    assert_eq!(given_way.0.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    let took = server.mutate().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(server.metrics.rejected.count("webhook", "limit") >= 1);
}

#[tokio::test]
async fn idle_connections_of_many_sources_do_not_close_api_servers() {
    let server = start().await;
    let mut used = server.connect(API_SERVER).await;
    mutate(&mut used).await;
    let mut held = Vec::new();
    for turn in 0..600_u16 {
        let source = Ipv4Addr::new(127, 0, 1, (turn / 16) as u8);
        let mut sender = server.connect(source).await;
        // Half of them ask once.
        if turn % 2 == 0 {
            mutate(&mut sender).await;
        }
        held.push(sender);
    }
    mutate(&mut used).await;
    let took = server.mutate().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn idle_connection_is_shut_down() {
    let server = start().await;
    let mut used = server.connect(API_SERVER).await;
    mutate(&mut used).await;
    let begun = Instant::now();
    let closed = async {
        while used.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(IDLE_TIMEOUT + HANDSHAKE_TIMEOUT, closed)
        .await
        .expect("it is closed");
    assert!(begun.elapsed() >= IDLE_TIMEOUT, "{:?}", begun.elapsed());
}
