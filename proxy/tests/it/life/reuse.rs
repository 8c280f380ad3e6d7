//! Reuse of upstream connections: no request is lost on one that the application has closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use weft_ir::Protocol;

use crate::support::*;

/// An application that closes connections after `idle_timeout` of idleness, behind a pair of
/// proxies.
async fn closing(idle_timeout: Duration, fields: &'static str) -> (Proxies, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let proxies = Proxies::serving(Protocol::Detect, move |stream| {
        count.fetch_add(1, Relaxed);
        serve(stream, idle_timeout, fields)
    })
    .await;
    (proxies, opened)
}

async fn serve(mut stream: TcpStream, idle_timeout: Duration, fields: &'static str) {
    let mut head = Vec::new();
    // There is no limit on the wait for the first request.
    let mut idle = Duration::MAX;
    loop {
        let read = timeout(idle, stream.read_u8());
        let Ok(Ok(first)) = read.await else {
            return;
        };
        idle = idle_timeout;
        head.push(first);
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else {
                return;
            };
            head.push(byte);
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        if text.contains("content-length: 4") {
            stream.read_exact(&mut [0; 4]).await.unwrap();
        }
        head.clear();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() || idle_timeout.is_zero() {
            return;
        }
    }
}

/// Sends a request on a client connection of its own.
async fn send(front: SocketAddr, method: Method) {
    let mut client = Client::connect(front, Version::Http1).await;
    let body = if method == Method::GET { "" } else { "body" };
    let request = Request::builder().method(method).uri("/");
    let seen = client.send(request, body).await;
    assert_eq!(seen.status, 200, "{:?}", seen.headers);
}

/// Sends POSTs at random intervals of up to `spread`, from concurrent clients.
async fn posts(front: SocketAddr, spread: Duration) {
    let mut clients = JoinSet::new();
    for seed in 0..25 {
        let mut random = fastrand::Rng::with_seed(seed);
        clients.spawn(async move {
            for _ in 0..20 {
                sleep(spread.mul_f64(random.f64())).await;
                send(front, Method::POST).await;
            }
        });
    }
    clients.join_all().await;
}

#[tokio::test]
async fn no_post_is_lost_when_application_closes_idle_connections() {
    let (proxies, _) = closing(Duration::from_millis(300), "").await;
    posts(proxies.front, Duration::from_secs(2)).await;
    // One at a time, about when the application closes the previous connection.
    for late in 0..20 {
        sleep(Duration::from_millis(290 + late)).await;
        send(proxies.front, Method::POST).await;
    }
}

#[tokio::test]
async fn no_post_is_lost_when_application_closes_after_each_response() {
    let (proxies, opened) = closing(Duration::ZERO, "").await;
    posts(proxies.front, Duration::from_millis(100)).await;
    for _ in 0..200 {
        send(proxies.front, Method::POST).await;
    }
    assert_eq!(opened.load(Relaxed), 700);
}

#[tokio::test]
async fn connections_are_reused_within_estimated_idle_timeout() {
    let long = Duration::from_secs(5);
    let (proxies, opened) = closing(long, "").await;
    for _ in 0..50 {
        send(proxies.front, Method::GET).await;
    }
    assert_eq!(opened.load(Relaxed), 1, "GETs");
    sleep(Duration::from_millis(120)).await;
    for _ in 0..200 {
        send(proxies.front, Method::POST).await;
    }
    // The first POST does not reuse the connection, which was idle for longer than is known to be
    // safe. On a machine that pauses for longer, neither does another.
    let posts = opened.load(Relaxed);
    assert!((2..20).contains(&posts), "POSTs: {posts}");

    // The Keep-Alive header overrides the observed idle time.
    let (proxies, opened) = closing(long, "keep-alive: timeout=0\r\n").await;
    for count in 1..=3 {
        sleep(Duration::from_millis(120)).await;
        send(proxies.front, Method::POST).await;
        assert_eq!(opened.load(Relaxed), count);
    }

    // Connections are reused once the estimate covers the interval of the POSTs.
    let (proxies, opened) = closing(long, "").await;
    for _ in 0..300 {
        sleep(Duration::from_millis(2)).await;
        send(proxies.front, Method::POST).await;
    }
    assert!(opened.load(Relaxed) < 100, "{opened:?}");
}
