//! Backend TLS policies (names, roots, versions) for applications that terminate TLS themselves,
//! reached directly and through a strict proxy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::gateway::{GatewayPod, TlsClient, at, free_port};
use crate::support::*;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_api::{encode, proto};
use weft_ir::{
    AlternativeName, BackendRoots, BackendTls, CheckTiming, ConnectionRule, Endpoint, EndpointSet,
    HealthCheck, HealthChecks, HttpHealthCheck, KeyPair, Mode, Protocol, RouteId, RouteKind,
    Routing, Serving, StatusRange, TlsListener, TlsRule, TlsServing, TrafficPolicy,
};
use weft_testkit::pki::{LeafSpec, Pki};

const NAME: &str = "app.example";
const URI: &str = "spiffe://other/ns/a/sa/b";

static ONLY_12: [&SupportedProtocolVersion; 1] = [&version::TLS12];
static ONLY_13: [&SupportedProtocolVersion; 1] = [&version::TLS13];

/// One handshake as the server saw it.
#[derive(Clone, Debug, PartialEq)]
struct Hello {
    name: Option<String>,
    alpn: Option<String>,
    /// The certificate that the client presented.
    client: Option<Vec<u8>>,
}

/// The configuration of a server.
struct Spec {
    leaf: LeafSpec,
    protocols: &'static [&'static str],
    versions: &'static [&'static SupportedProtocolVersion],
    /// Requires clients to present a certificate of these roots.
    clients: Option<RootCertStore>,
}

impl Default for Spec {
    fn default() -> Self {
        let mut leaf = LeafSpec::new(&identity("app")).without_uris();
        leaf.dns = vec![NAME.to_owned(), "other.example".to_owned()];
        Self {
            leaf,
            protocols: &["h2", "http/1.1"],
            versions: rustls::ALL_VERSIONS,
            clients: None,
        }
    }
}

struct Server {
    address: SocketAddr,
    hellos: Arc<Mutex<Vec<Hello>>>,
}

impl Server {
    async fn start(pki: &Pki, spec: Spec) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let leaf = pki.issue(&spec.leaf).unwrap();
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(spec.versions).unwrap();
        let builder = match spec.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let mut config = builder.with_single_cert(leaf.chain, leaf.key).unwrap();
        config.alpn_protocols = spec
            .protocols
            .iter()
            .map(|p| p.as_bytes().to_vec())
            .collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let hellos = Arc::<Mutex<Vec<Hello>>>::default();
        let seen = hellos.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let hello = hello(&stream);
                    let alpn = hello.alpn.clone();
                    seen.lock().unwrap().push(hello);
                    serve(stream, alpn.as_deref()).await;
                });
            }
        });
        Self { address, hellos }
    }

    fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }

    fn last(&self) -> Hello {
        self.hellos().pop().expect("a handshake")
    }
}

fn hello(stream: &TlsStream<TcpStream>) -> Hello {
    let connection = stream.get_ref().1;
    let client = connection.peer_certificates().and_then(<[_]>::first);
    Hello {
        name: connection.server_name().map(str::to_owned),
        alpn: connection
            .alpn_protocol()
            .map(|p| String::from_utf8_lossy(p).into_owned()),
        client: client.map(|leaf| leaf.to_vec()),
    }
}

async fn serve(mut stream: TlsStream<TcpStream>, alpn: Option<&str>) {
    let service = service_fn(answer);
    let _ = match alpn {
        Some("h2") => {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(stream), service).await
        }
        Some(_) => {
            let server = hyper::server::conn::http1::Builder::new();
            let io = TokioIo::new(stream);
            server.serve_connection(io, service).with_upgrades().await
        }
        // No ALPN: opaque bytes.
        None => {
            echo(&mut stream).await;
            Ok(())
        }
    };
}

async fn echo(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// Reports the request's version and scheme, and upgrades to an echo on request. Also sends
/// `weft-refused`, which only a proxy may send.
async fn answer(
    mut request: http::Request<Incoming>,
) -> Result<http::Response<Full<bytes::Bytes>>, Infallible> {
    let mut response = http::Response::builder()
        .header("x-version", format!("{:?}", request.version()))
        .header("x-scheme", request.uri().scheme_str().unwrap_or_default())
        .header("weft-refused", "1");
    if request.headers().contains_key("upgrade") {
        response = response
            .status(101)
            .header("upgrade", "echo")
            .header("connection", "upgrade");
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { echo(&mut TokioIo::new(upgraded.await.unwrap())).await });
    }
    Ok(response.body(Full::default()).unwrap())
}

fn policy(pki: &Pki) -> BackendTls {
    BackendTls {
        hostname: NAME.into(),
        alternative_names: Vec::new(),
        roots: BackendRoots::Pem(pki.root_pem().into_bytes().into()),
    }
}

fn set(protocol: Protocol, endpoint: Endpoint, tls: &BackendTls) -> proto::Resource {
    encode::endpoints(&EndpointSet {
        tls: Some(Arc::new(tls.clone())),
        ..EndpointSet::new(port("reviews"), protocol, vec![endpoint])
    })
}

/// Starts a gateway with `endpoint` as its only endpoint; returns it with its client-facing
/// address.
fn gateway(
    mesh: &Pki,
    protocol: Protocol,
    endpoint: Endpoint,
    tls: &BackendTls,
) -> (Pod, SocketAddr) {
    let pod = Pod::start(mesh, "gateway", Mode::Strict);
    let routing = Routing::Direct(vec![to("reviews", 1)]);
    pod.tell(vec![
        set(protocol, endpoint, tls),
        service(Protocol::Http1, routing),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    (pod, front)
}

/// Returns the response, and whether one handshake was counted with `result`.
async fn ask(
    server: &Server,
    protocol: Protocol,
    tls: &BackendTls,
    result: &str,
) -> (TestResponse, bool) {
    let mesh = Pki::new().unwrap();
    let (pod, front) = gateway(&mesh, protocol, unmeshed(server.address), tls);
    let seen = Client::connect(front, Version::Http1).await.get("/").await;
    let series = format!(r#"weft_tls_handshakes_total{{direction="backend",result="{result}"}} 1"#);
    let counted = pod.metrics().contains(&series);
    (seen, counted)
}

#[tokio::test]
async fn backend_tls_negotiates_version_and_alpn_of_application() {
    let pki = Pki::new().unwrap();
    for (protocols, versions, declared, alpn, http) in [
        (
            &["h2", "http/1.1"][..],
            &ONLY_13,
            Protocol::Detect,
            "h2",
            "HTTP/2.0",
        ),
        (
            &["h2", "http/1.1"],
            &ONLY_12,
            Protocol::Tls,
            "h2",
            "HTTP/2.0",
        ),
        (
            &["http/1.1"],
            &ONLY_13,
            Protocol::Detect,
            "http/1.1",
            "HTTP/1.1",
        ),
        (
            &["http/1.1"],
            &ONLY_12,
            Protocol::Http1,
            "http/1.1",
            "HTTP/1.1",
        ),
        (&["h2"], &ONLY_13, Protocol::Grpc, "h2", "HTTP/2.0"),
    ] {
        let spec = Spec {
            protocols,
            versions,
            ..Spec::default()
        };
        let server = Server::start(&pki, spec).await;
        let (seen, counted) = ask(&server, declared, &policy(&pki), "ok").await;
        assert_eq!(
            (seen.status, seen.header("x-version"), counted),
            (200, http, true),
            "{seen:?}"
        );
        assert_eq!(
            seen.header("weft-refused"),
            "",
            "weft-refused of an application is removed"
        );
        if http == "HTTP/2.0" {
            assert_eq!(seen.header("x-scheme"), "https");
        }
        let hello = Hello {
            name: Some(NAME.to_owned()),
            alpn: Some(alpn.to_owned()),
            client: None,
        };
        assert_eq!(server.hellos(), [hello]);
    }
}

#[tokio::test]
async fn backend_failing_tls_verification_gets_no_request() {
    let (pki, other) = (Pki::new().unwrap(), Pki::new().unwrap());
    let right = policy(&pki);
    let with = |change: &dyn Fn(&mut BackendTls)| {
        let mut tls = right.clone();
        change(&mut tls);
        tls
    };
    let good = Spec::default;
    let expired = Spec {
        leaf: good().leaf.expired(),
        ..good()
    };
    let http1_only = Spec {
        protocols: &["http/1.1"],
        ..good()
    };
    let mut roots = RootCertStore::empty();
    roots.add(pki.root()).unwrap();
    let demanding = Spec {
        clients: Some(roots),
        versions: &ONLY_12,
        ..good()
    };
    let none = |tls: &mut BackendTls| tls.roots = BackendRoots::Pem(b"nothing".as_slice().into());
    for (spec, tls, protocol, result, message) in [
        (
            good(),
            with(&|tls| tls.hostname = "wrong.example".into()),
            Protocol::Detect,
            "name",
            "the certificate is for app.example, other.example, and wrong.example was expected",
        ),
        (
            good(),
            with(&|tls| tls.alternative_names = vec![AlternativeName::Uri(URI.into())]),
            Protocol::Detect,
            "name",
            "and spiffe://other/ns/a/sa/b was expected",
        ),
        (
            good(),
            policy(&other),
            Protocol::Detect,
            "untrusted",
            "(roots: the policy's 1, 0 unusable: CN=weft test root",
        ),
        (
            good(),
            with(&|tls| tls.roots = BackendRoots::System),
            Protocol::Detect,
            "untrusted",
            "(roots: those that browsers trust)",
        ),
        (
            good(),
            with(&none),
            Protocol::Detect,
            "untrusted",
            "UnknownIssuer",
        ),
        (
            expired,
            right.clone(),
            Protocol::Detect,
            "expired",
            "expired",
        ),
        (
            http1_only,
            right.clone(),
            Protocol::Grpc,
            "refused_by_peer",
            "NoApplicationProtocol",
        ),
        (
            demanding,
            right.clone(),
            Protocol::Detect,
            "refused_by_peer",
            "CertificateRequired",
        ),
    ] {
        let server = Server::start(&pki, spec).await;
        let (seen, counted) = ask(&server, protocol, &tls, result).await;
        let error = seen.header("weft-error");
        let named =
            error.contains(message) && error.contains(&format!("TLS with {} as ", server.address));
        assert_eq!(
            (seen.status, named, counted),
            (503, true, true),
            "{result}, {message}: {error}"
        );
        assert_eq!(server.hellos(), [], "{message}");
    }
}

#[tokio::test]
async fn subject_alternative_names_replace_hostname() {
    let pki = Pki::new().unwrap();
    let dns = |name: &str| AlternativeName::Dns(name.into());
    let uri = |name: &str| AlternativeName::Uri(name.into());
    for (names, status) in [
        (vec![dns(NAME)], 200),
        (vec![dns("nobody.example"), uri(URI)], 200),
        (vec![dns("*.example")], 200),
        (
            vec![dns("unlike.example"), uri("spiffe://other/ns/a/sa/bb")],
            503,
        ),
    ] {
        let mut spec = Spec::default();
        spec.leaf = spec.leaf.with_uri(URI);
        let server = Server::start(&pki, spec).await;
        let tls = BackendTls {
            hostname: "unlike.example".into(),
            alternative_names: names,
            ..policy(&pki)
        };
        let result = if status == 200 { "ok" } else { "name" };
        let (seen, counted) = ask(&server, Protocol::Detect, &tls, result).await;
        assert_eq!((seen.status, counted), (status, true), "{tls:?} {seen:?}");
    }
}

#[tokio::test]
async fn gateway_presents_current_client_certificate_to_backend() {
    let (pki, clients) = (Pki::new().unwrap(), Pki::new().unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(clients.root()).unwrap();
    let spec = Spec {
        clients: Some(roots),
        protocols: &["http/1.1"],
        ..Spec::default()
    };
    let server = Server::start(&pki, spec).await;
    let (pod, front) = gateway(
        &pki,
        Protocol::Detect,
        unmeshed(server.address),
        &policy(&pki),
    );
    for _ in 0..2 {
        let leaf = clients.leaf(&identity("gateway")).unwrap();
        let pair = KeyPair {
            chain: leaf.chain_pem.into_bytes().into(),
            key: leaf.key_pem.into_bytes().into(),
        };
        pod.context.tls.set_client_certificate(Some(&pair)).unwrap();
        // A key that does not belong to the certificate is rejected and changes nothing.
        let other = clients.leaf(&identity("gateway")).unwrap();
        let broken = KeyPair {
            key: other.key_pem.into_bytes().into(),
            ..pair
        };
        assert!(
            pod.context
                .tls
                .set_client_certificate(Some(&broken))
                .is_err()
        );
        // An upgrade opens a connection of its own, hence a handshake.
        let upgrade = http::Request::get("/")
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        let seen = Client::connect(front, Version::Http1)
            .await
            .raw(upgrade, "")
            .await
            .unwrap();
        assert_eq!(seen.status(), 101);
        assert_eq!(server.last().client.as_deref(), Some(&*leaf.chain[0]));
    }
}

#[tokio::test]
async fn backend_tls_runs_inside_mutual_tls_to_meshed_endpoint() {
    let (mesh, pki) = (Pki::new().unwrap(), Pki::new().unwrap());
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let server = Server::start(
            &pki,
            Spec {
                protocols,
                ..Spec::default()
            },
        )
        .await;
        let sidecar = Pod::start(&mesh, "reviews", Mode::Strict);
        let back = sidecar.inbound(server.address);
        let (pod, front) = gateway(
            &mesh,
            Protocol::Detect,
            meshed(back, "reviews"),
            &policy(&pki),
        );
        let mut client = Client::connect(front, Version::Http1).await;
        for _ in 0..3 {
            let seen = client.get("/").await;
            assert_eq!(seen.status, 200, "{seen:?}");
        }
        assert_eq!(server.hellos().len(), 1, "requests share one connection");
        assert_eq!(server.last().name.as_deref(), Some(NAME));
        for direction in ["outbound", "backend"] {
            let series =
                format!(r#"weft_tls_handshakes_total{{direction="{direction}",result="ok"}} 1"#);
            assert!(pod.metrics().contains(&series), "{direction}");
        }
        // A proxy of another identity does not even see the application's ClientHello.
        let (_pod, front) = gateway(
            &mesh,
            Protocol::Detect,
            meshed(back, "ratings"),
            &policy(&pki),
        );
        let seen = Client::connect(front, Version::Http1).await.get("/").await;
        assert_eq!(seen.status, 503);
        assert!(seen.header("weft-error").contains("mutual TLS with"));
    }
}

fn all_bytes(kind: RouteKind) -> ConnectionRule {
    ConnectionRule {
        route: RouteId {
            kind,
            namespace: "shop".into(),
            name: "r".into(),
        },
        index: 0,
        name: None,
        backends: vec![to("reviews", 1)],
    }
}

#[tokio::test]
async fn backend_tls_carries_upgrades_and_opaque_tcp() {
    let pki = Pki::new().unwrap();
    let server = Server::start(&pki, Spec::default()).await;
    let (pod, front) = gateway(
        &pki,
        Protocol::Detect,
        unmeshed(server.address),
        &policy(&pki),
    );
    let upgrade = http::Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    let mut client = Client::connect(front, Version::Http1).await;
    let switched = client.raw(upgrade, "").await.unwrap();
    assert_eq!(
        (switched.status().as_u16(), server.last().alpn.as_deref()),
        (101, Some("http/1.1"))
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(switched).await.unwrap());
    stream.write_all(b"frames").await.unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"frames");

    let rule = all_bytes(RouteKind::Tcp);
    pod.tell(vec![service(Protocol::Tcp, Routing::Tcp(rule))]);
    let mut tcp = TcpStream::connect(front).await.unwrap();
    tcp.write_all(b"bytes").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut back = Vec::new();
    tcp.read_to_end(&mut back).await.unwrap();
    assert_eq!((&*back, server.last().alpn), (&b"bytes"[..], None));
}

#[tokio::test]
async fn backend_tls_policy_change_fails_no_request() {
    let pki = Pki::new().unwrap();
    let server = Server::start(&pki, Spec::default()).await;
    let (pod, front) = gateway(
        &pki,
        Protocol::Detect,
        unmeshed(server.address),
        &policy(&pki),
    );
    let requests: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(front, Version::Http1).await;
                for _ in 0..50 {
                    assert_eq!(client.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for turn in 0..20 {
        let hostname = [NAME, "other.example"][turn % 2].into();
        let tls = BackendTls {
            hostname,
            ..policy(&pki)
        };
        pod.tell(vec![set(Protocol::Detect, unmeshed(server.address), &tls)]);
        tokio::task::yield_now().await;
    }
    for request in requests {
        request.await.unwrap();
    }
    let seen = Client::connect(front, Version::Http1).await.get("/").await;
    assert_eq!(
        (seen.status, server.last().name.as_deref()),
        (200, Some("other.example"))
    );
    // An identical policy does not open a new connection.
    let before = server.hellos().len();
    let tls = BackendTls {
        hostname: "other.example".into(),
        ..policy(&pki)
    };
    pod.tell(vec![set(Protocol::Detect, unmeshed(server.address), &tls)]);
    Client::connect(front, Version::Http1).await.get("/").await;
    assert_eq!(server.hellos().len(), before);
}

/// The policy is for TLS that the gateway originates; on a passthrough listener the client does.
#[tokio::test]
async fn tls_passthrough_ignores_backend_tls_policy() {
    let pki = Pki::new().unwrap();
    let server = Server::start(&pki, Spec::default()).await;
    let gateway = GatewayPod::start();
    let number = free_port();
    let passthrough = TlsServing::Passthrough {
        rules: vec![TlsRule {
            hostnames: Vec::new(),
            rule: all_bytes(RouteKind::Tls),
        }],
    };
    let listener = TlsListener {
        name: "passed".into(),
        hostname: None,
        serving: passthrough,
    };
    gateway.tell(vec![
        set(Protocol::Tls, unmeshed(server.address), &policy(&pki)),
        crate::support::gateway::port(number, Serving::Tls(vec![listener])),
    ]);
    let client = TlsClient::new(&pki);
    let mut stream = client.connect(at(number), "other.example").await.unwrap();
    stream.write_all(b"bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"bytes");
    assert_eq!(server.last().name.as_deref(), Some("other.example"));
}

/// What the application says of itself in headers of proxies is not believed here either.
#[tokio::test]
async fn health_checks_speak_tls_as_requests_do() {
    let (pki, stranger) = (Pki::new().unwrap(), Pki::new().unwrap());
    let http = HealthCheck::Http(HttpHealthCheck {
        path: "/".parse().unwrap(),
        host: None,
        statuses: vec![StatusRange::SUCCESS],
    });
    for (check, roots, result) in [
        (http.clone(), &pki, "passed"),
        (HealthCheck::Tcp, &pki, "passed"),
        (http, &stranger, "unreachable"),
        (HealthCheck::Tcp, &stranger, "unreachable"),
    ] {
        let server = Server::start(&pki, Spec::default()).await;
        let second = Duration::from_secs(1);
        let checks = HealthChecks {
            timing: CheckTiming::new(second, second).unwrap(),
            unhealthy_threshold: NonZeroU32::MIN,
            healthy_threshold: NonZeroU32::MIN,
            check,
        };
        let set = EndpointSet {
            tls: Some(Arc::new(policy(roots))),
            traffic: Some(Arc::new(TrafficPolicy {
                health_checks: Some(checks),
                ..TrafficPolicy::default()
            })),
            ..EndpointSet::new(
                port("reviews"),
                Protocol::Detect,
                vec![unmeshed(server.address)],
            )
        };
        let pod = Pod::start(&Pki::new().unwrap(), "gateway", Mode::Strict);
        let routing = Routing::Direct(vec![to("reviews", 1)]);
        pod.tell(vec![
            encode::endpoints(&set),
            service(Protocol::Http1, routing),
        ]);
        let front = pod.outbound(SERVICE.parse().unwrap());
        let mut client = Client::connect(front, Version::Http1).await;
        let series = format!(r#"weft_health_checks_total{{result="{result}"}}"#);
        let begun = Instant::now();
        while !pod.metrics().contains(&series) {
            client.get("/").await;
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{}",
                pod.metrics()
            );
        }
        if result == "passed" {
            assert_eq!(server.last().name.as_deref(), Some(NAME));
        }
    }
}
