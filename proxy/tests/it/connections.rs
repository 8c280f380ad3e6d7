//! Connections from a proxy to an endpoint: their stream limit, who opens them, and what happens to
//! requests when they close.

use std::convert::Infallible;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use weft_ir::{Mode, Protocol, Routing, Rule, TimeLimit, Timeouts};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// Responds immediately, except to `/wait`.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/wait" {
        sleep(Duration::from_secs(3_600)).await;
    }
    Ok(Response::new(Full::default()))
}

/// An application that limits concurrent streams per connection.
async fn serve_with_limit(stream: TcpStream, max_streams: u32) {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(max_streams);
    let served = server.serve_connection(TokioIo::new(stream), service_fn(answer));
    served.await.unwrap();
}

/// Sends `count` concurrent requests over one client connection.
async fn send_concurrently(
    proxies: &Proxies,
    count: usize,
    path: &str,
) -> Vec<tokio::task::JoinHandle<u16>> {
    let client = Client::connect(proxies.front, Version::Http2).await;
    let Client::Http2(sender) = client else {
        unreachable!()
    };
    let send = |_| {
        let mut sender = sender.clone();
        let request = Request::get(format!("http://reviews{path}")).body(Full::default());
        tokio::spawn(async move {
            let answer = sender.send_request(request.unwrap()).await;
            answer.unwrap().status().as_u16()
        })
    };
    (0..count).map(send).collect()
}

/// Long requests on an application with a low stream limit do not block other requests.
#[tokio::test]
async fn requests_over_stream_limit_open_another_connection() {
    let proxies = Proxies::serving(Protocol::Detect, |stream| serve_with_limit(stream, 4)).await;
    for _ in 0..3 {
        let _waiting = send_concurrently(&proxies, 30, "/wait").await;
        // The stream limit is known after the first SETTINGS.
        sleep(Duration::from_millis(100)).await;
        for answered in send_concurrently(&proxies, 30, "/").await {
            let answered = timeout(Duration::from_secs(5), answered).await;
            assert_eq!(answered.expect("a response").unwrap(), 200);
        }
    }
}

/// A connect that takes longer than the request timeout still completes for later requests.
#[tokio::test]
async fn request_timeout_does_not_cancel_shared_connect() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let pki = Pki::new().unwrap();
    let server = Pod::start(&pki, "reviews", Mode::Strict);
    let back = server.inbound(app.address());
    // A relay with a high connect latency.
    let far = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let endpoint = far.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = far.accept().await {
            tokio::spawn(async move {
                sleep(Duration::from_millis(300)).await;
                let mut back = TcpStream::connect(back).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut back).await;
            });
        }
    });
    let client = Pod::start(&pki, "frontend", Mode::Strict);
    let rule = Rule {
        timeouts: Timeouts {
            request: Duration::from_millis(100).into(),
            backend: TimeLimit::Unsaid,
        },
        ..rule(0, vec![to("reviews", 1)])
    };
    client.tell(vec![
        endpoints("reviews", Protocol::Detect, &[meshed(endpoint, "reviews")]),
        service(Protocol::Http1, Routing::Http(vec![rule.into()])),
    ]);
    let front = client.outbound(SERVICE.parse().unwrap());
    let mut sender = Client::connect(front, Version::Http1).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&200) {
        seen.push(sender.get("/").await.status);
        assert!(seen.len() < 20, "{seen:?}");
    }
    assert_eq!(seen[0], 504);
}

/// Serves for up to 2 ms, then closes the connection abruptly.
async fn serve_briefly(stream: TcpStream) {
    let server = http2::Builder::new(TokioExecutor::new());
    let served = server.serve_connection(TokioIo::new(stream), service_fn(answer));
    let moment = Duration::from_micros(fastrand::u64(..2_000));
    let _ = timeout(moment, served).await;
}

/// With several workers, a request can be queued on a connection while it closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_are_answered_when_their_connection_closes() {
    let proxies = Proxies::serving(Protocol::Detect, serve_briefly).await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        for answered in send_concurrently(&proxies, 60, "/").await {
            let answered = timeout(Duration::from_secs(10), answered).await;
            let status = answered.expect("a response").unwrap();
            assert!([200, 502, 503].contains(&status), "{status}");
        }
    }
}
