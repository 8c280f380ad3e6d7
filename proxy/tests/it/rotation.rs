//! Certificates and roots change under load without a failed request; each request is a connection
//! with its own handshake.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use weft_ir::{Mode, Protocol, Routing};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

#[tokio::test]
async fn renewal_and_root_rotation_fail_no_request() {
    let (old, new) = (Pki::new().unwrap(), Pki::new().unwrap());
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let server = Pod::start(&old, "reviews", Mode::Strict);
    let back = server.inbound(app.address());
    let client = Pod::start(&old, "frontend", Mode::Strict);
    // Opaque TCP: each client connection is one connection between the proxies.
    client.tell(vec![
        endpoints("reviews", Protocol::Tcp, &[meshed(back, "reviews")]),
        service(Protocol::Tcp, Routing::Direct(vec![to("reviews", 1)])),
    ]);
    let front = client.outbound(SERVICE.parse().unwrap());

    let (ended, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = async {
        while !ended.load(Ordering::Relaxed) {
            let seen = Client::connect(front, Version::Http1).await.get("/").await;
            assert_eq!(seen.status, 200, "request {}", sent.load(Ordering::Relaxed));
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let served = async || {
        let until = sent.load(Ordering::Relaxed) + 5;
        while sent.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let rotate = async {
        for _ in 0..5 {
            client.renew(&old, &[&old]);
            served().await;
            server.renew(&old, &[&old]);
            served().await;
        }
        // Both roots are trusted before the new one signs, and until no certificate of the old one
        // is left.
        for (signer, roots) in [
            (&old, &[&old, &new][..]),
            (&new, &[&old, &new]),
            (&new, &[&new]),
        ] {
            for pod in [&client, &server] {
                pod.renew(signer, roots);
                served().await;
            }
        }
        ended.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, rotate);

    // An unknown root is refused, so the load above met every change.
    let stranger = Pki::new().unwrap();
    server.renew(&stranger, &[&new, &stranger]);
    let mut refused = tokio::net::TcpStream::connect(front).await.unwrap();
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let _ = tokio::io::AsyncWriteExt::write_all(&mut refused, ask).await;
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut refused, &mut answer).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}
