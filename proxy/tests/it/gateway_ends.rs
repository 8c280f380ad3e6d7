//! How client connections of a gateway close when the process drains, or a port or listener is
//! removed: no request that crosses with the close is lost, and opaque TCP connections live on for
//! a while.

use std::io::ErrorKind::ConnectionRefused;
use std::time::{Duration, Instant};

use crate::support::gateway::server_tls;
use crate::support::gateway::{GatewayPod, TlsClient, all_to, at, free_port, host, listener, port};
use crate::support::*;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};
use weft_ir::{ConnectionRule, Protocol, RouteId, RouteKind, Serving, StreamListener};
use weft_ir::{TlsListener, TlsServing};
use weft_testkit::pki::{Pki, ServerKey};
use weft_testkit::upstream::{Speaks, Upstream};

const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 0\r\n\r\n";

/// A gateway in front of one application, with one port.
struct Edge {
    gateway: GatewayPod,
    app: Upstream,
    number: u16,
    pki: Pki,
}

impl Edge {
    async fn start(speaks: Speaks) -> Self {
        Self {
            gateway: GatewayPod::start(),
            app: Upstream::start("v1", speaks).await.unwrap(),
            number: free_port(),
            pki: Pki::new().unwrap(),
        }
    }

    async fn http() -> Self {
        let edge = Self::start(Speaks::Http1).await;
        edge.serve(Serving::Http(vec![listener(
            "a",
            "",
            vec![host("", all_to("v1"))],
        )]));
        edge
    }

    /// One HTTPS listener for each name.
    async fn https(names: &[&str]) -> Self {
        let edge = Self::start(Speaks::Http1).await;
        edge.serve_https(names);
        edge
    }

    fn serve_https(&self, names: &[&str]) {
        let listener = |name: &&str| {
            let certificate = self.pki.server(&[name], ServerKey::Ecdsa).unwrap();
            let tls = server_tls(vec![certificate], None);
            let hosts = vec![host(name, all_to("v1"))];
            TlsListener {
                name: format!("listener {name}").into(),
                hostname: Some(name.parse().unwrap()),
                serving: TlsServing::Http {
                    tls,
                    external_auth: Vec::new(),
                    hosts,
                },
            }
        };
        self.serve(Serving::Tls(names.iter().map(listener).collect()));
    }

    fn serve(&self, serving: Serving) {
        let app = [unmeshed(self.app.address())];
        let known = endpoints("v1", Protocol::Detect, &app);
        self.gateway.tell(vec![known, port(self.number, serving)]);
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(at(self.number)).await.unwrap()
    }

    /// Removes the port from the configuration.
    fn close(&self) {
        let key = format!("port/tcp/{}", self.number);
        assert!(self.gateway.try_tell(Vec::new(), &[&key]).is_empty());
    }

    fn drain(&self) {
        let shutdown = self.gateway.shutdown.clone();
        tokio::spawn(async move { shutdown.drain(Duration::from_secs(30)).await });
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, future).await.expect("in time")
}

/// Reads to the end, which must be an orderly close.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await.unwrap();
    rest
}

/// Sends a request; returns the head of its response.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(REQUEST).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Waits until the gateway has surely acted on the change.
async fn later() {
    tokio::time::sleep(Duration::from_millis(800)).await;
}

/// A connection that is idle or unused when the process drains, or its port is removed, still gets
/// one response, which carries `connection: close`.
#[tokio::test]
async fn idle_http1_connection_gets_one_more_request_after_close() {
    for end in [Edge::drain, Edge::close] {
        let edge = Edge::http().await;
        let mut used = edge.connect().await;
        let first = ask(&mut used).await;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert!(!first.contains("connection: close"), "{first}");
        let unused = edge.connect().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        end(&edge);
        later().await;
        let refused = TcpStream::connect(at(edge.number)).await;
        assert!(refused.is_err(), "new connections are refused");
        for mut kept in [used, unused] {
            let last = ask(&mut kept).await;
            assert!(last.starts_with("HTTP/1.1 200"), "{last}");
            assert!(last.contains("connection: close"), "{last}");
            assert_eq!(rest(&mut kept).await, "");
        }
    }
}

/// The same for HTTPS, also where the port stays and only the listener is removed.
#[tokio::test]
async fn idle_https_connection_gets_one_more_request_after_close() {
    let ends: [fn(&Edge); 2] = [Edge::close, |edge| edge.serve_https(&["b.com"])];
    for end in ends {
        let edge = Edge::https(&["a.com", "b.com"]).await;
        let tls = TlsClient::new(&edge.pki).alpn("http/1.1");
        let mut used = tls.connect(at(edge.number), "a.com").await.unwrap();
        let first = ask(&mut used).await;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        end(&edge);
        later().await;
        let last = ask(&mut used).await;
        assert!(last.starts_with("HTTP/1.1 200"), "{last}");
        assert!(last.contains("connection: close"), "{last}");
        assert_eq!(rest(&mut used).await, "");
    }
}

/// A client that is idle for too long, or does not finish its request head, gets close_notify and
/// not a bare FIN, which an attacker could forge.
#[tokio::test]
async fn timed_out_https_client_gets_close_notify() {
    for (version, said) in [
        ("http/1.1", ""),
        ("http/1.1", "GET / HTTP/1.1\r\nhost:"),
        ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ] {
        let edge = Edge::https(&["a.com"]).await;
        let tls = TlsClient::new(&edge.pki).alpn(version);
        let mut stream = tls.connect(at(edge.number), "a.com").await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        later().await;
        // From here on, time advances whenever all tasks wait.
        tokio::time::pause();
        let mut received = Vec::new();
        // Without close_notify this is an error.
        let read = stream.read_to_end(&mut received).await;
        read.unwrap_or_else(|error| panic!("{version} {said}: {error}"));
        tokio::time::resume();
    }
}

/// A request that crosses with the first GOAWAY is answered: only the second one names the last
/// stream, and is sent once the client has seen the first.
#[tokio::test]
async fn requests_crossing_goaway_are_answered() {
    let edge = Edge::http().await;
    let mut client = Client::connect(at(edge.number), Version::Http2).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let Client::Http2(sender) = &client else {
        unreachable!()
    };
    let crossing: Vec<_> = (0..20)
        .map(|_| {
            let mut sender = sender.clone();
            let request = Request::post("http://a.com/").body(Default::default());
            tokio::spawn(async move { sender.send_request(request.unwrap()).await })
        })
        .collect();
    edge.close();
    for answer in crossing {
        assert_eq!(soon(answer).await.unwrap().unwrap().status(), 200);
    }
    soon(async { while client.raw(Request::get("/"), "").await.is_ok() {} }).await;
}

/// Opaque TCP connections live on for the drain time after their port is removed, even if idle.
#[tokio::test]
async fn tcp_connection_outlives_its_port() {
    let edge = Edge::start(Speaks::Echo).await;
    let rule = ConnectionRule {
        route: RouteId {
            kind: RouteKind::Tcp,
            namespace: "shop".into(),
            name: "bytes".into(),
        },
        index: 0,
        name: None,
        backends: vec![to("v1", 1)],
    };
    edge.serve(Serving::Tcp(StreamListener {
        name: "tcp".into(),
        rule: Some(rule),
    }));
    let mut stream = edge.connect().await;
    for pause in [0, 2_500] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        stream.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        soon(stream.read_exact(&mut back)).await.unwrap();
        edge.close();
    }
    assert!(TcpStream::connect(at(edge.number)).await.is_err());
}

/// Calls until `stop`; returns the number of responses, and the errors with their causes.
async fn call_until(
    stop: CancellationToken,
    mut channel: Channel,
    failures: watch::Sender<usize>,
) -> (usize, Vec<tonic::transport::Error>) {
    let (mut answered, mut failed) = (0, Vec::new());
    while !stop.is_cancelled() {
        let request = Request::post("http://a.com/shop.Reviews/Get")
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::empty());
        let answer = match channel.ready().await {
            Ok(channel) => channel.call(request.unwrap()).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                let trailers = answer.into_body().collect().await.unwrap();
                let status = trailers.trailers().and_then(|all| all.get("grpc-status"));
                assert_eq!(status.unwrap(), "0");
                answered += 1;
            }
            Err(error) => {
                failed.push(error);
                failures.send_modify(|failures| *failures += 1);
            }
        }
        // Calls that fail immediately must not starve the other tasks.
        tokio::task::yield_now().await;
    }
    (answered, failed)
}

/// Returns true if the request was never sent, or was above the last stream of the GOAWAY, or there
/// was no connection.
fn is_unprocessed(error: &(dyn std::error::Error + 'static)) -> bool {
    let goaway = |error: &h2::Error| error.is_go_away() && error.is_remote();
    error.downcast_ref().is_some_and(hyper::Error::is_canceled)
        || error.downcast_ref().is_some_and(goaway)
        || error
            .downcast_ref()
            .is_some_and(|io: &std::io::Error| io.kind() == ConnectionRefused)
        || error.source().is_some_and(is_unprocessed)
}

/// Clients such as tonic do not retry. A call that fails on GOAWAY was never processed, and its
/// error says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_in_flight_survive_port_changes() {
    let edge = Edge::start(Speaks::Http2).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", at(edge.number))).unwrap();
    let (channel, stop) = (endpoint.connect_lazy(), CancellationToken::new());
    let http = || Serving::Http(vec![listener("a", "", vec![host("", all_to("v1"))])]);
    edge.serve(http());
    let (failures, failed) = watch::channel(0);
    let callers: Vec<_> = (0..64)
        .map(|_| tokio::spawn(call_until(stop.clone(), channel.clone(), failures.clone())))
        .collect();
    let (mut rounds, begun) = (0, Instant::now());
    // Whether a call crosses a GOAWAY is a matter of chance.
    while rounds < 20 || *failed.borrow() == 0 && begun.elapsed() < Duration::from_secs(60) {
        rounds += 1;
        let before = edge.app.requests();
        let answers = async {
            while edge.app.requests() < before + 64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let answers = tokio::time::timeout(Duration::from_secs(30), answers);
        answers.await.expect("calls are answered");
        edge.close();
        // Until then the port is still bound.
        while TcpStream::connect(at(edge.number)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        edge.serve(http());
    }
    stop.cancel();
    let (mut answered, mut failed) = (0, 0);
    for caller in callers {
        let (some, errors) = caller.await.unwrap();
        for error in &errors {
            assert!(is_unprocessed(error), "{error:?}");
        }
        answered += some;
        failed += errors.len();
    }
    assert!(failed > 0, "no call failed on GOAWAY: {answered} calls");
    assert_eq!(edge.app.requests(), answered, "{failed} failed");
}
