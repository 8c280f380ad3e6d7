//! A proxy whose ClientHello is late, as on a loaded node, connects to a permissive pod whose
//! application sends first: it must not be taken for an unmeshed client.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_ir::{Mode, Protocol, Routing};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// Many times the delay after which the proxy connects to the application.
const TIME_TO_SPEAK: Duration = Duration::from_millis(200);

/// Relays connections to `back`; delays the first `late` of them until the application has sent, or
/// had time to.
async fn relay(back: SocketAddr, late: usize) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for place in 0.. {
            let (mut from, _) = listener.accept().await.unwrap();
            let mut to = TcpStream::connect(back).await.unwrap();
            if place < late {
                timeout(TIME_TO_SPEAK, to.readable()).await.ok();
            }
            // Either end may close first; the requests show whether the relay worked.
            tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await.ok() });
        }
    });
    address
}

/// Starts a client pod whose only endpoint is reached through the relay; returns its listener.
async fn front(speaks: Speaks, late: usize) -> (SocketAddr, Pod, Pod, Upstream) {
    let pki = Pki::new().unwrap();
    let app = Upstream::start("v1", speaks).await.unwrap();
    let server = Pod::start(&pki, "reviews", Mode::Permissive);
    let back = relay(server.inbound(app.address()), late).await;
    let client = Pod::start(&pki, "frontend", Mode::Permissive);
    client.tell(vec![
        endpoints("reviews", Protocol::Detect, &[meshed(back, "reviews")]),
        service(Protocol::Detect, Routing::Direct(vec![to("reviews", 1)])),
    ]);
    let front = client.outbound(SERVICE.parse().unwrap());
    (front, client, server, app)
}

#[tokio::test]
async fn http2_server_settings_are_not_sent_to_late_proxy() {
    let (front, _client, _server, _app) = front(Speaks::Http2, usize::MAX).await;
    let mut client = Client::connect(front, Version::Http2).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn plaintext_greeting_instead_of_tls_is_retried() {
    let (front, _client, _server, _app) = front(Speaks::First, 5).await;
    let mut stream = TcpStream::connect(front).await.unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello\n");
    stream.write_all(b"bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"bytes");
}
