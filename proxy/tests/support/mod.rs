//! Pods on loopback: each a complete data plane, configured through the protocol.
//!
//! Without redirect rules, a listener has a fixed original destination; a pod opens as many as a
//! test needs.

// Each test file uses a part of it. `unwrap` is allowed in test functions only, which these helpers
// serve.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use weft_api::{encode, proto};
use weft_ir::{
    Backend, Destination, Endpoint, EndpointSet, Identity, Mode, Protocol, Routing, Rule, Service,
    ServicePort, Target, TrustDomain, WeightedBackend, Workload,
};
use weft_proxy::control::store::{Request as Asked, Settings, Store};
use weft_proxy::drain::Shutdown;
use weft_proxy::http::runtime::Runtime;
use weft_proxy::listen::{Listener, OriginalDst, inbound, outbound};
use weft_proxy::options::Options;
use weft_proxy::routing::gateway_port::BoundPorts;
use weft_proxy::telemetry::access::AccessLog;
use weft_proxy::telemetry::metrics::Metrics;
use weft_proxy::tls::Tls;
use weft_proxy::tls::credentials::{Credentials, CurrentCredentials, Roots};
use weft_proxy::upstream::EndpointRegistry;
use weft_testkit::pki::{LeafSpec, Pki};
use weft_testkit::upstream::{Speaks, Upstream};

pub mod gateway;

pub const ANY: &str = "127.0.0.1:0";
/// The address of the Service under test: nothing listens there.
pub const SERVICE: &str = "192.0.2.1:80";

/// The half-close timeout: how long a request outlives the client's side of its connection.
pub const HALF_CLOSE: Duration = Duration::from_secs(1);

pub fn identity(account: &str) -> Identity {
    let domain = TrustDomain::new("cluster.local").unwrap();
    Identity::new(domain, "shop", account).unwrap()
}

fn credentials(identity: &Identity, signer: &Pki, roots: &[&Pki]) -> Credentials {
    let certificates: Vec<_> = roots.iter().map(|pki| pki.root()).collect();
    let (roots, unusable) = Roots::new(certificates.iter());
    assert_eq!(unusable, 0);
    Credentials {
        key: Arc::new(signer.leaf(identity).unwrap().certified().unwrap()),
        roots: Arc::new(roots),
        root: Some(signer.root()),
        not_before: 0,
        not_after: i64::MAX,
    }
}

/// The parts of a proxy with a certificate signed by `pki`.
pub fn data_plane(
    pki: &Pki,
    account: &str,
    access: AccessLog,
    ports: Option<BoundPorts>,
) -> (
    weft_proxy::http::runtime::Proxy,
    CurrentCredentials,
    UnboundedReceiver<Asked>,
) {
    data_plane_with(pki, account, access, ports, |_| {})
}

/// The same with changed options.
pub fn data_plane_with(
    pki: &Pki,
    account: &str,
    access: AccessLog,
    ports: Option<BoundPorts>,
    with: impl FnOnce(&mut Options),
) -> (
    weft_proxy::http::runtime::Proxy,
    CurrentCredentials,
    UnboundedReceiver<Asked>,
) {
    let arguments = ["weft-proxy", "--pod", "p", "--namespace", "shop"];
    let mut options = Options::try_parse_from(arguments).unwrap();
    options.service_account = account.to_owned();
    options.half_close = HALF_CLOSE;
    with(&mut options);
    let identity = identity(account);
    let current = CurrentCredentials::default();
    current.set(credentials(&identity, pki, &[pki]));
    let tls = Tls::new(current.clone(), identity.trust_domain().clone()).unwrap();
    let metrics = Arc::new(Metrics::new());
    let shared = EndpointRegistry::new(options.own_addresses(), tls.clone(), metrics.clone());
    let shared = Arc::new(shared.with_endpoint_requests(options.endpoint_requests));
    let settings = Settings {
        identity,
        current: current.clone(),
        wait: Duration::from_millis(50),
        idle: Duration::from_secs(600),
        ports,
    };
    let (store, requests) = Store::new(settings, shared.clone(), metrics.clone());
    let proxy = weft_proxy::http::runtime::Proxy {
        options: Arc::new(options),
        store,
        tls,
        metrics,
        access,
        upstream: shared,
    };
    (proxy, current, requests)
}

/// One pod's data plane.
pub struct Pod {
    pub identity: Identity,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    pub context: Arc<Runtime>,
    current: CurrentCredentials,
    _requests: UnboundedReceiver<Asked>,
}

impl Pod {
    pub fn start(pki: &Pki, account: &str, mode: Mode) -> Self {
        Self::start_logged(pki, account, mode, AccessLog::off())
    }

    pub fn start_logged(pki: &Pki, account: &str, mode: Mode, access: AccessLog) -> Self {
        Self::of(data_plane(pki, account, access, None), account, mode)
    }

    /// A pod with known addresses.
    pub fn start_at(own: Vec<IpAddr>, pki: &Pki, account: &str, mode: Mode) -> Self {
        let parts = data_plane_with(pki, account, AccessLog::off(), None, |options| {
            options.pod_ips = own.into_iter().map(Some).collect();
        });
        Self::of(parts, account, mode)
    }

    /// A pod with changed options.
    pub fn start_with(
        pki: &Pki,
        account: &str,
        mode: Mode,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut parts = data_plane(pki, account, AccessLog::off(), None);
        change(Arc::get_mut(&mut parts.0.options).unwrap());
        Self::of(parts, account, mode)
    }

    fn of(
        (proxy, current, requests): (
            weft_proxy::http::runtime::Proxy,
            CurrentCredentials,
            UnboundedReceiver<Asked>,
        ),
        account: &str,
        mode: Mode,
    ) -> Self {
        let shutdown = Shutdown::new();
        let pod = Self {
            context: Runtime::new(&proxy, shutdown.clone()).unwrap(),
            identity: identity(account),
            store: proxy.store,
            metrics: proxy.metrics,
            shutdown,
            current,
            _requests: requests,
        };
        pod.tell(vec![encode::workload(&Workload::new(
            pod.identity.clone(),
            mode,
        ))]);
        pod
    }

    /// Replaces the certificate by one of `signer`, and the trusted roots.
    pub fn renew(&self, signer: &Pki, roots: &[&Pki]) {
        self.current.set(credentials(&self.identity, signer, roots));
    }

    /// Replaces the certificate by one of `signer` with this lifetime.
    pub fn certify(&self, signer: &Pki, lifetime: Duration) {
        let mut spec = LeafSpec::new(&self.identity);
        spec.not_after = SystemTime::now() + lifetime;
        let leaf = signer.issue(&spec).unwrap();
        self.current.set(Credentials {
            key: Arc::new(leaf.certified().unwrap()),
            ..credentials(&self.identity, signer, &[signer])
        });
    }

    /// Applies an update; panics if a resource is refused.
    pub fn tell(&self, resources: Vec<proto::Resource>) {
        let refused = self.store.apply(proto::Update {
            nonce: 1,
            resources,
            removed: Vec::new(),
            withdrawn: None,
        });
        assert!(refused.is_empty(), "{refused:?}");
    }

    /// Opens an outbound listener for connections to `destination`.
    pub fn outbound(&self, destination: SocketAddr) -> SocketAddr {
        let listener =
            Listener::bind(ANY.parse().unwrap(), OriginalDst::Fixed(destination)).unwrap();
        let address = listener.socket.local_addr().unwrap();
        tokio::spawn(outbound::listen(self.context.clone(), listener));
        address
    }

    /// Opens an inbound listener for connections to the application at `app`.
    pub fn inbound(&self, app: SocketAddr) -> SocketAddr {
        let listener = Listener::bind(ANY.parse().unwrap(), OriginalDst::Fixed(app)).unwrap();
        let address = listener.socket.local_addr().unwrap();
        tokio::spawn(inbound::listen(self.context.clone(), listener));
        address
    }

    pub fn metrics(&self) -> String {
        self.metrics.encode().unwrap()
    }
}

pub fn port(name: &str) -> ServicePort {
    format!("shop/{name}:80")
        .parse::<ServicePortText>()
        .unwrap()
        .0
}

/// `namespace/service:port`, as in the keys of endpoint sets.
pub struct ServicePortText(pub ServicePort);

impl std::str::FromStr for ServicePortText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match format!("endpoints/{text}").parse() {
            Ok(weft_ir::ResourceKey::Endpoints(id)) => Ok(Self(id)),
            other => Err(format!("{other:?}")),
        }
    }
}

pub fn meshed(address: SocketAddr, account: &str) -> Endpoint {
    Endpoint {
        address,
        identity: Some(identity(account)),
    }
}

pub fn unmeshed(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        identity: None,
    }
}

pub fn endpoints(name: &str, protocol: Protocol, endpoints: &[Endpoint]) -> proto::Resource {
    encode::endpoints(&EndpointSet::new(port(name), protocol, endpoints.to_vec()))
}

pub fn service(protocol: Protocol, routing: Routing) -> proto::Resource {
    encode::destination(&Destination {
        address: SERVICE.parse().unwrap(),
        target: Target::Service(Arc::new(Service {
            id: port("reviews"),
            protocol,
            routing,
        })),
    })
}

pub fn to(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        backend: Backend::Service(port(name)),
        filters: Vec::new(),
    }
}

pub fn rule(index: u32, backends: Vec<WeightedBackend>) -> Rule {
    Rule {
        route: weft_ir::RouteId {
            kind: weft_ir::RouteKind::Http,
            namespace: "shop".into(),
            name: "reviews".into(),
        },
        index,
        name: None,
        matches: vec![weft_ir::RequestMatch {
            path: Some(weft_ir::PathMatch::Prefix("/".into())),
            ..Default::default()
        }],
        filters: Vec::new(),
        backends,
        timeouts: Default::default(),
        retry: None,
        failure: None,
    }
}

/// The HTTP versions that a test runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

pub const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

/// The connection of an HTTP client.
pub enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub async fn connect(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, version).await
    }

    pub async fn over<S>(stream: S, version: Version) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        match version {
            Version::Http1 => {
                let (sender, connection) =
                    hyper::client::conn::http1::handshake(stream).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Self::Http1(sender)
            }
            Version::Http2 => {
                let executor = TokioExecutor::new();
                let (sender, connection) = hyper::client::conn::http2::handshake(executor, stream)
                    .await
                    .unwrap();
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        }
    }

    pub async fn raw(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> hyper::Result<http::Response<Incoming>> {
        let mut request = request.body(Full::new(body.into())).unwrap();
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                if !request.headers().contains_key("host") {
                    request
                        .headers_mut()
                        .insert("host", "reviews".parse().unwrap());
                }
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                if request.uri().authority().is_none() {
                    let host = request.headers_mut().remove("host");
                    let host =
                        host.map_or("reviews".to_owned(), |h| h.to_str().unwrap().to_owned());
                    let path = request.uri().to_string();
                    *request.uri_mut() = format!("http://{host}{path}").parse().unwrap();
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub async fn send(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> TestResponse {
        let response = self.raw(request, body).await.expect("a response");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a complete body");
        TestResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            trailers: body.trailers().cloned().unwrap_or_default(),
            body: body.to_bytes(),
        }
    }

    pub async fn get(&mut self, path: &str) -> TestResponse {
        self.send(http::Request::get(path), "").await
    }
}

/// A complete response.
#[derive(Debug)]
pub struct TestResponse {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub trailers: http::HeaderMap,
    pub body: Bytes,
}

impl TestResponse {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// An application that handles each connection with `serve`.
pub async fn application<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(ANY).await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    app
}

/// A client pod and a server pod, without applications.
pub struct Proxies {
    pub client: Pod,
    pub server: Pod,
    /// Where the client's application connects to.
    pub front: SocketAddr,
    /// Where the server's proxy listens.
    pub back: SocketAddr,
}

impl Proxies {
    /// A pair in front of an application that listens at `app`.
    pub fn before(app: SocketAddr, protocol: Protocol) -> Self {
        let pki = Pki::new().unwrap();
        let server = Pod::start(&pki, "reviews", Mode::Strict);
        let back = server.inbound(app);
        let client = Pod::start(&pki, "frontend", Mode::Strict);
        client.tell(vec![
            endpoints("reviews", protocol, &[meshed(back, "reviews")]),
            service(protocol, Routing::Direct(vec![to("reviews", 1)])),
        ]);
        let front = client.outbound(SERVICE.parse().unwrap());
        Self {
            client,
            server,
            front,
            back,
        }
    }

    /// A pair in front of an application that handles each connection with `serve`.
    pub async fn serving<F>(
        protocol: Protocol,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::before(application(serve).await, protocol)
    }

    pub async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.front).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Panics unless the server's proxy has had connections over mutual TLS, and none in plain
    /// text.
    pub fn encrypted(&self) {
        let metrics = self.server.metrics();
        let inbound = |tls: &str| format!(r#"{{direction="inbound",tls="{tls}"}}"#);
        assert!(metrics.contains(&inbound("mesh")), "{metrics}");
        assert!(!metrics.contains(&inbound("none")), "{metrics}");
    }
}

/// Reads a head of HTTP/1.1, or any bytes up to an empty line.
pub async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("more of the head"));
    }
    String::from_utf8(head).unwrap()
}

/// A client pod, a server pod, and the application behind it.
pub struct Pair {
    pub client: Pod,
    pub server: Pod,
    pub app: Upstream,
    /// Where the client's application connects to.
    pub front: SocketAddr,
    /// Where the server's proxy listens.
    pub back: SocketAddr,
}

impl Pair {
    pub async fn start(speaks: Speaks, protocol: Protocol) -> Self {
        let app = Upstream::start("v1", speaks).await.unwrap();
        let Proxies {
            client,
            server,
            front,
            back,
        } = Proxies::before(app.address(), protocol);
        Self {
            client,
            server,
            app,
            front,
            back,
        }
    }

    pub async fn for_version(version: Version) -> (Self, Client) {
        let speaks = match version {
            Version::Http1 => Speaks::Http1,
            Version::Http2 => Speaks::Http2,
        };
        let pair = Self::start(speaks, Protocol::Detect).await;
        let client = Client::connect(pair.front, version).await;
        (pair, client)
    }
}
