//! Clients that do not read their responses hold neither an upstream request nor its connection
//! forever.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use weft_ir::{Protocol, Serving};

use crate::support::gateway::{port, *};
use crate::support::*;

type Ended = mpsc::UnboundedReceiver<()>;

/// An application whose responses never end; reports each connection that closes.
async fn endless() -> (SocketAddr, Ended) {
    let (tell, closed) = mpsc::unbounded_channel();
    let serve = move |mut stream: TcpStream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await;
            let begin = b"HTTP/1.1 200 OK\r\n\r\n";
            stream.write_all(begin).await.unwrap();
            while stream.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
            let _ = tell.send(());
        }
    };
    (application(serve).await, closed)
}

/// Starts a gateway in front of it, with this request timeout and this limit on stalled responses.
async fn before(request: Option<Duration>, idle: Duration) -> (GatewayPod, u16, Ended) {
    let (app, ended) = endless().await;
    let gateway = GatewayPod::start_with(|options| options.answer_idle = idle);
    let number = free_port();
    let mut rules = all_to("app");
    rules[0].timeouts.request = request.into();
    let of = listener("http", "", vec![host("", rules)]);
    gateway.tell(vec![
        endpoints("app", Protocol::Detect, &[unmeshed(app)]),
        port(number, Serving::Http(vec![of])),
    ]);
    (gateway, number, ended)
}

fn get() -> http::request::Builder {
    Request::get("/").header("host", "shop.example")
}

/// A client that reads nothing but the response head; returns when the upstream connection was
/// released.
async fn released_after(version: Version, request: Option<Duration>, idle: Duration) -> Duration {
    let (_gateway, number, mut ended) = before(request, idle).await;
    let begun = Instant::now();
    let mut client = Client::connect(at(number), version).await;
    let answer = client.raw(get(), "").await.unwrap();
    let within = tokio::time::timeout(Duration::from_secs(8), ended.recv());
    within
        .await
        .expect("the upstream connection is released")
        .unwrap();
    let passed = begun.elapsed();
    if version == Version::Http2 {
        // Only the stream is reset, the connection stays open.
        assert_eq!(client.raw(get(), "").await.unwrap().status(), 200);
    }
    assert!(
        answer.into_body().collect().await.is_err(),
        "the response is cut"
    );
    passed
}

#[tokio::test]
async fn request_timeout_applies_to_stalled_client() {
    let timeout = Duration::from_millis(700);
    for version in BOTH {
        let passed = released_after(version, Some(timeout), Duration::ZERO).await;
        assert!(passed >= timeout, "{version:?} {passed:?}");
    }
}

#[tokio::test]
async fn stalled_client_is_cut_after_idle_timeout() {
    let idle = Duration::from_secs(1);
    for version in BOTH {
        let passed = released_after(version, None, idle).await;
        assert!(passed >= idle, "{version:?} {passed:?}");
    }
}

#[tokio::test]
async fn slow_reader_is_not_cut() {
    let idle = Duration::from_secs(1);
    let (_gateway, number, _ended) = before(None, idle).await;
    let tcp = TcpStream::connect(at(number)).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::get("http://shop.example/").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let begun = Instant::now();
    while begun.elapsed() < 3 * idle {
        let data = body.data().await.expect("more of the response").unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        tokio::time::sleep(idle / 10).await;
    }
}
