//! Upgraded connections: the bytes they carry, and their end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_ir::{Protocol, Serving};

use crate::support::gateway::{port, *};
use crate::support::*;

const SWITCHES: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

/// An application that answers `/switch` with 101 after a delay and then echoes, and answers
/// everything else with 200. Counts its connections.
async fn app() -> (SocketAddr, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(ANY).await.unwrap();
    let (app, count) = (listener.local_addr().unwrap(), opened.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(serve(stream));
        }
    });
    (app, opened)
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        if head.starts_with(b"GET /switch") {
            break;
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await?;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.write_all(SWITCHES).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

/// Starts a gateway in front of it with this idle timeout of upgraded connections.
async fn before(bytes_idle: Duration) -> (GatewayPod, u16, Arc<AtomicUsize>) {
    let (app, opened) = app().await;
    let gateway = GatewayPod::start_with(|options| options.bytes_idle = bytes_idle);
    let number = free_port();
    let of = listener("http", "", vec![host("", all_to("app"))]);
    gateway.tell(vec![
        endpoints("app", Protocol::Detect, &[unmeshed(app)]),
        port(number, Serving::Http(vec![of])),
    ]);
    (gateway, number, opened)
}

/// Requests the upgrade, and sends `early` before the response.
async fn request_upgrade(number: u16, early: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(at(number)).await.unwrap();
    let ask = b"GET /switch HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(&[ask, early].concat()).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client
}

#[tokio::test]
async fn bytes_before_upgrade_response_arrive_in_order() {
    let (_gateway, number, opened) = before(Duration::ZERO).await;
    // More than the proxy buffers.
    let early: Vec<u8> = (0..40_000).map(|n| (n % 251) as u8).collect();
    for round in 1..=3 {
        let mut client = request_upgrade(number, &early).await;
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut echo = Vec::new();
        client.read_to_end(&mut echo).await.unwrap();
        assert!(echo == [&early[..], b"late"].concat());
        assert_eq!(opened.load(Relaxed), round);
    }
    let mut client = Client::connect(at(number), Version::Http1).await;
    let request = Request::get("/").header("host", "shop.example");
    assert_eq!(client.send(request, "").await.status, 200);
    assert_eq!(opened.load(Relaxed), 4);
}

#[tokio::test]
async fn unexpected_101_response_is_refused() {
    let (_gateway, number, opened) = before(Duration::ZERO).await;
    for version in BOTH {
        let before = opened.load(Relaxed);
        let mut client = Client::connect(at(number), version).await;
        let ask = |path: &str| Request::get(path).header("host", "shop.example");
        assert_eq!(client.send(ask("/switch"), "").await.status, 502);
        assert_eq!(client.send(ask("/"), "").await.status, 200, "{version:?}");
        assert!(opened.load(Relaxed) > before);
    }
}

#[tokio::test]
async fn gateway_closes_idle_upgraded_connection() {
    let (_gateway, number, _opened) = before(Duration::from_secs(1)).await;
    let mut client = request_upgrade(number, b"early").await;
    client.read_exact(&mut [0; 5]).await.unwrap();
    let mut more = [0];
    let end = tokio::time::timeout(Duration::from_secs(5), client.read(&mut more));
    assert_eq!(end.await.expect("in time").unwrap(), 0);
}
