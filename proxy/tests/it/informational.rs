//! Informational responses (1xx): when they arrive, and who gets none. That they arrive unchanged
//! on every way is tested by `differential`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use weft_ir::{Filter, Fraction, HeaderEdit, Mirror, Mode, Protocol, Retry, Routing, Rule};
use weft_testkit::pki::Pki;

use crate::support::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, future).await.expect("in time")
}

/// Reads the next head; returns its status line.
async fn status(stream: &mut TcpStream) -> String {
    let head = soon(head(stream)).await;
    head.lines().next().unwrap().to_owned()
}

/// An application of HTTP/1.1 that answers its n-th request with the n-th text, and then closes the
/// connection if there is none.
async fn scripted(texts: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let address = application(move |mut stream| {
        let counter = counter.clone();
        async move {
            let mut asked = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                asked.push(byte);
                if asked.ends_with(b"\r\n\r\n") {
                    asked.clear();
                    let number = counter.fetch_add(1, Ordering::SeqCst);
                    let Some(text) = texts.get(number) else {
                        return;
                    };
                    stream.write_all(text.as_bytes()).await.unwrap();
                    if !text.contains(" 200 ") && !text.contains(" 503 ") {
                        return;
                    }
                }
            }
        }
    });
    (address.await, requests)
}

/// A client pod whose Service has this rule, and applications without proxies behind `v1` and so
/// on.
async fn routed(apps: &[SocketAddr], rule: Rule) -> (Pod, TcpStream) {
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    for (place, app) in apps.iter().enumerate() {
        let name = format!("v{}", place + 1);
        pod.tell(vec![endpoints(&name, Protocol::Http1, &[unmeshed(*app)])]);
    }
    let rules = vec![Arc::new(rule)];
    pod.tell(vec![service(Protocol::Http1, Routing::Http(rules))]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    (pod, TcpStream::connect(front).await.unwrap())
}

fn retry(attempts: u32) -> Option<Retry> {
    Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts,
        backoff: Duration::ZERO,
    })
}

#[tokio::test]
async fn early_hints_arrive_while_response_is_awaited() {
    let seen = Arc::new(Notify::new());
    let told = seen.clone();
    let proxies = Proxies::serving(Protocol::Detect, move |mut stream| {
        let seen = seen.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(HINTS.as_bytes()).await.unwrap();
            seen.notified().await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            head(&mut stream).await;
        }
    })
    .await;
    let mut stream = proxies.connect().await;
    stream.write_all(GET).await.unwrap();
    assert_eq!(soon(head(&mut stream)).await, HINTS);
    told.notify_one();
    assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn early_hints_arrive_while_response_is_awaited_over_http2() {
    let (told, seen) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let sent = seen.clone();
    let app = application(move |stream| {
        let seen = seen.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let Some(Ok((_, mut respond))) = connection.accept().await else {
                return;
            };
            tokio::spawn(async move {
                let hints = http::Response::builder().status(103).header("link", "</a>");
                respond.send_informational(hints.body(()).unwrap()).unwrap();
                seen.notified().await;
                respond
                    .send_response(http::Response::new(()), true)
                    .unwrap();
            });
            while connection.accept().await.is_some() {}
        }
    });
    let proxies = Proxies::before(app.await, Protocol::Detect);
    let (mut sender, connection) = h2::client::handshake(proxies.connect().await)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://reviews/").body(()).unwrap();
    let (mut response, _) = sender.send_request(request, true).unwrap();
    let hints = std::future::poll_fn(|cx| response.poll_informational(cx));
    let hints = soon(hints).await.unwrap().unwrap();
    assert_eq!(
        (hints.status().as_u16(), &hints.headers()["link"]),
        (103, &HeaderValue::from_static("</a>"))
    );
    told.notify_one();
    sent.notify_one();
    assert_eq!(soon(response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn http_1_0_client_gets_no_informational_response() {
    let (app, _) =
        scripted(&["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"])
            .await;
    let (_pod, mut stream) = routed(&[app], rule(0, vec![to("v1", 1)])).await;
    stream
        .write_all(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&mut stream).await, "HTTP/1.0 200 OK");
}

#[tokio::test]
async fn informational_responses_beyond_bound_are_dropped() {
    let proxies = Proxies::serving(Protocol::Detect, |mut stream| async move {
        for _ in 0..2 {
            head(&mut stream).await;
            let all = HINTS.repeat(20) + OK;
            stream.write_all(all.as_bytes()).await.unwrap();
        }
    })
    .await;
    let mut stream = proxies.connect().await;
    for _ in 0..2 {
        stream.write_all(GET).await.unwrap();
        for _ in 0..16 {
            assert_eq!(soon(head(&mut stream)).await, HINTS);
        }
        assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn pipelined_responses_keep_their_informational_responses() {
    const HINTED: &str =
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (app, _) = scripted(&[HINTED; 5]).await;
    let (_pod, mut stream) = routed(&[app], rule(0, vec![to("v1", 1)])).await;
    stream.write_all(&GET.repeat(5)).await.unwrap();
    for _ in 0..5 {
        assert_eq!(status(&mut stream).await, "HTTP/1.1 103 Early Hints");
        assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn client_gets_one_100_continue() {
    let proxies = Proxies::serving(Protocol::Detect, |mut stream| async move {
        head(&mut stream).await;
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        stream.write_all(interim).await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stream.write_all(interim).await.unwrap();
        stream.write_all(OK.as_bytes()).await.unwrap();
    })
    .await;
    let mut stream = proxies.connect().await;
    let ask = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    assert_eq!(status(&mut stream).await, "HTTP/1.1 100 Continue");
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn retried_attempt_leaves_no_informational_response() {
    const REFUSED: &str = "HTTP/1.1 103 Early Hints\r\nx-of: first\r\n\r\n\
                           HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    const ACCEPTED: &str = "HTTP/1.1 103 Early Hints\r\nx-of: second\r\n\r\n\
                            HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    // The second attempt is the last one, or not.
    for attempts in [1, 2] {
        let (app, requests) = scripted(&[REFUSED, ACCEPTED]).await;
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.retry = retry(attempts);
        let (_pod, mut stream) = routed(&[app], rule).await;
        stream.write_all(GET).await.unwrap();
        let hints = soon(head(&mut stream)).await;
        assert!(hints.contains("x-of: second"), "{hints}");
        assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn attempt_with_informational_response_is_not_repeated() {
    // The connection is reused, and the method idempotent: without hints it would be.
    for (then, answered, count) in [
        (
            &[OK, HINTS, OK][..],
            &["HTTP/1.1 103 Early Hints", "HTTP/1.1 502 Bad Gateway"][..],
            2,
        ),
        (&[OK, "", OK], &["HTTP/1.1 200 OK"], 3),
    ] {
        let (app, requests) = scripted(then).await;
        let (_pod, mut stream) = routed(&[app], rule(0, vec![to("v1", 1)])).await;
        stream.write_all(GET).await.unwrap();
        assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
        stream.write_all(GET).await.unwrap();
        for expected in answered {
            assert_eq!(status(&mut stream).await, *expected);
        }
        assert_eq!(requests.load(Ordering::SeqCst), count);
    }
}

#[tokio::test]
async fn mirrors_and_response_filters_leave_informational_responses_alone() {
    let (app, _) = scripted(&["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]).await;
    let (shadow, mirrored) = scripted(&["HTTP/1.1 103 Early Hints\r\nx-shadow: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]).await;
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.filters = vec![
        Filter::Mirror(Mirror {
            to: port("v2"),
            fraction: Fraction::ALL,
        }),
        Filter::ResponseHeaders(HeaderEdit {
            set: vec![(
                HeaderName::from_static("x-filter"),
                HeaderValue::from_static("1"),
            )],
            ..Default::default()
        }),
    ];
    let (_pod, mut stream) = routed(&[app, shadow], rule).await;
    stream.write_all(GET).await.unwrap();
    assert_eq!(soon(head(&mut stream)).await, HINTS);
    let response = soon(head(&mut stream)).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("x-filter: 1"), "{response}");
    soon(async {
        while mirrored.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
