//! A plain HTTP port on loopback with more connections than places: requests are still answered.
//! Each address of 127.0.0.0/8 is a source of its own.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use weft_accept::pages::{self, Pages, text};
use weft_accept::{Metrics, Protected};

/// Timeout of the kubelet.
const BOUND: Duration = Duration::from_secs(1);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);
const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 1);

/// Serves `/ready`, and `/drain`, which takes half a second.
#[derive(Clone)]
struct Kubelets;

impl Pages for Kubelets {
    fn has(&self, path: &str) -> Result<(), &'static str> {
        match path {
            "/ready" | "/drain" => Ok(()),
            _ => Err("not here\n"),
        }
    }

    async fn answer(&self, path: &str, _: &HeaderMap) -> Response<Full<Bytes>> {
        if path == "/drain" {
            sleep(BOUND / 2).await;
        }
        text(StatusCode::OK, "done\n")
    }
}

async fn server() -> (SocketAddr, Metrics) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let metrics = Metrics::default();
    let counted = metrics.clone();
    tokio::spawn(async move {
        let protected = Protected::of([NODE.into()]);
        pages::serve(listener, "ready", &counted, &protected, Kubelets).await
    });
    (at, metrics)
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends a request and reads until the connection is closed.
async fn ask(from: Ipv4Addr, to: SocketAddr, path: &str) -> (String, Duration) {
    let begun = Instant::now();
    let mut stream = connect(from, to).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\n\r\n");
    let mut answer = String::new();
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    // A connection that was closed in favor of another can be reset.
    let _ = timeout(2 * BOUND, asked).await;
    (answer, begun.elapsed())
}

async fn answered(from: Ipv4Addr, to: SocketAddr, path: &str) {
    let (answer, took) = ask(from, to, path).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer:?}");
    assert!(took < BOUND, "{path}: {took:?}");
}

/// Opens `each` idle connections from each of `sources` addresses.
async fn silent(to: SocketAddr, sources: u8, each: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for source in 0..sources {
        for _ in 0..each {
            held.push(connect(Ipv4Addr::new(127, 0, 1, source), to).await);
        }
    }
    held
}

#[tokio::test]
async fn idle_connections_of_one_source_do_not_block_others() {
    let (at, metrics) = server().await;
    let _held = silent(at, 1, 256).await;
    for path in ["/ready", "/drain"] {
        answered(HONEST, at, path).await;
        // Neither is the source itself, whose oldest connection is closed.
        answered(Ipv4Addr::new(127, 0, 1, 0), at, path).await;
    }
    assert!(metrics.count("ready", "source_limit") >= 248);
    assert_eq!(metrics.count("ready", "limit"), 0);
}

#[tokio::test]
async fn idle_connections_of_many_sources_do_not_block_others() {
    let (at, metrics) = server().await;
    let _held = silent(at, 100, 8).await;
    for path in ["/ready", "/drain"] {
        answered(HONEST, at, path).await;
    }
    assert!(metrics.count("ready", "limit") >= 800 - 256);
}

#[tokio::test]
async fn reconnecting_idle_clients_do_not_block_others() {
    let (at, _) = server().await;
    for source in 0..64 {
        tokio::spawn(async move {
            loop {
                let mut stream = connect(Ipv4Addr::new(127, 0, 1, source), at).await;
                // Half of them send a request as well.
                if source % 2 == 0 {
                    let _ = stream
                        .write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n")
                        .await;
                }
                let _ = stream.read_to_end(&mut Vec::new()).await;
                sleep(Duration::from_millis(5)).await;
            }
        });
    }
    for _ in 0..10 {
        answered(HONEST, at, "/ready").await;
    }
}

#[tokio::test]
async fn many_drain_requests_do_not_block_readiness_or_the_kubelets_drain() {
    let (at, metrics) = server().await;
    let own = tokio::spawn(async move { answered(NODE, at, "/drain").await });
    let mut held = Vec::new();
    for mut stream in silent(at, 40, 4).await {
        let asked = b"GET /drain HTTP/1.1\r\nhost: a\r\n\r\n";
        let _ = stream.write_all(asked).await;
        held.push(stream);
    }
    answered(HONEST, at, "/ready").await;
    own.await.unwrap();
    assert!(metrics.count("ready", "limit") > 0);
}

#[tokio::test]
async fn connections_are_closed_after_the_response_or_the_head_timeout() {
    let (at, metrics) = server().await;
    let (answer, took) = ask(HONEST, at, "/ready").await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(took < BOUND, "{took:?}");
    let mut stream = connect(HONEST, at).await;
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let begun = Instant::now();
    let _ = timeout(5 * BOUND, stream.read_to_end(&mut Vec::new())).await;
    assert!(begun.elapsed() < 2 * BOUND, "{:?}", begun.elapsed());
    assert_eq!(metrics.count("ready", "timeout"), 1);
    let (answer, _) = ask(HONEST, at, "/other").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}
