//! Requests are cancelled when their clients go away before the response.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use weft_ir::{Mode, Protocol, Routing, Serving};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

use crate::support::gateway::{port, *};
use crate::support::*;

type Events = mpsc::UnboundedReceiver<&'static str>;

/// An application that never responds; reports when a request arrives on a connection, and when the
/// connection closes.
async fn unresponsive_app() -> (SocketAddr, Events) {
    let (tell, events) = mpsc::unbounded_channel();
    let serve = move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await;
            let _ = tell.send("asked");
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = tell.send("ended");
        }
    };
    (application(serve).await, events)
}

/// The same application behind a pair of proxies.
async fn unresponsive() -> (Proxies, Events) {
    let (app, events) = unresponsive_app().await;
    (Proxies::before(app, Protocol::Detect), events)
}

async fn next(events: &mut Events) -> &'static str {
    let next = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    next.expect("in time").unwrap()
}

async fn send_get(front: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(front).await.unwrap();
    let ask = b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";
    client.write_all(ask).await.unwrap();
    client
}

#[tokio::test]
async fn client_reset_cancels_request_at_once() {
    let (proxies, mut events) = unresponsive().await;
    let client = send_get(proxies.front).await;
    assert_eq!(next(&mut events).await, "asked");
    let begun = Instant::now();
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(next(&mut events).await, "ended");
    assert!(begun.elapsed() < HALF_CLOSE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn client_close_cancels_request_after_half_close_timeout() {
    let (proxies, mut events) = unresponsive().await;
    for closes in [true, false] {
        let mut client = send_get(proxies.front).await;
        assert_eq!(next(&mut events).await, "asked");
        let begun = Instant::now();
        client.shutdown().await.unwrap();
        let _open = (!closes).then_some(client);
        assert_eq!(next(&mut events).await, "ended");
        let passed = begun.elapsed();
        assert!(
            passed >= HALF_CLOSE && passed < HALF_CLOSE * 4,
            "{passed:?}"
        );
    }
}

#[tokio::test]
async fn half_closed_client_gets_response_in_progress() {
    let proxies = Proxies::serving(Protocol::Detect, |mut stream| async move {
        head(&mut stream).await;
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        stream.write_all(begin).await.unwrap();
        for byte in b"12345" {
            tokio::time::sleep(HALF_CLOSE * 6 / 10).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
    })
    .await;
    let mut client = send_get(proxies.front).await;
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\n12345"), "{answer}");
}

#[tokio::test]
async fn stream_reset_cancels_request_at_once() {
    let (app, mut events) = unresponsive_app().await;
    let gateway = GatewayPod::start();
    let number = free_port();
    let of = listener("http", "", vec![host("", all_to("app"))]);
    gateway.tell(vec![
        endpoints("app", Protocol::Detect, &[unmeshed(app)]),
        port(number, Serving::Http(vec![of])),
    ]);
    let mut client = Client::connect(at(number), Version::Http2).await;
    let asked = tokio::time::timeout(Duration::from_millis(300), client.get("/"));
    assert!(asked.await.is_err(), "the application never responds");
    let begun = Instant::now();
    assert_eq!(next(&mut events).await, "asked");
    assert_eq!(next(&mut events).await, "ended");
    assert!(begun.elapsed() < HALF_CLOSE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn mesh_connection_closes_when_its_certificate_expires() {
    let pki = Pki::new().unwrap();
    let app = Upstream::start("app", Speaks::Http1).await.unwrap();
    let server = Pod::start(&pki, "reviews", Mode::Strict);
    let back = server.inbound(app.address());
    let client = Pod::start(&pki, "frontend", Mode::Strict);
    client.tell(vec![
        endpoints("reviews", Protocol::Detect, &[meshed(back, "reviews")]),
        service(Protocol::Detect, Routing::Direct(vec![to("reviews", 1)])),
    ]);
    client.certify(&pki, Duration::from_secs(3));
    let front = client.outbound(SERVICE.parse().unwrap());
    let mut requester = Client::connect(front, Version::Http1).await;
    assert_eq!(requester.get("/").await.status, 200);
    client.renew(&pki, &[&pki]);
    let opened = |count: usize| {
        let line = format!("weft_connections_total{{direction=\"inbound\",tls=\"mesh\"}} {count}");
        server.metrics().contains(&line)
    };
    assert!(opened(1));
    let begun = Instant::now();
    while !opened(2) {
        assert_eq!(requester.get("/").await.status, 200);
        assert!(begun.elapsed() < Duration::from_secs(8));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(1));
}
