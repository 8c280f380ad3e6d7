//! Malformed input, plain text, unmeshed or untrusted peers, unknown destinations.

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ir::{Destination, Mode, Protocol, Target};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// Sends bytes and half-closes; returns what is received until the connection closes.
async fn say(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The proxy may close before all is written, which is a valid outcome.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back).await;
    back
}

const GARBAGE: [&[u8]; 7] = [
    b"\x00\xff\x00\xff garbage",
    b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
    b"GET /\x01 HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff",
    b"\x16\x03\x01\x40\x00",
    b"",
];

#[tokio::test]
async fn garbage_does_not_affect_other_connections() {
    for mode in [Mode::Permissive, Mode::Strict] {
        let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
        pair.server
            .tell(vec![weft_api::encode::workload(&weft_ir::Workload::new(
                pair.server.identity.clone(),
                mode,
            ))]);
        let mut client = Client::connect(pair.front, Version::Http1).await;
        for bytes in GARBAGE {
            say(pair.front, bytes).await;
            say(pair.back, bytes).await;
            assert_eq!(client.get("/").await.status, 200, "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn plaintext_is_served_by_permissive_pod_only() {
    for version in BOTH {
        let speaks = match version {
            Version::Http1 => Speaks::Http1,
            Version::Http2 => Speaks::Http2,
        };
        let pki = Pki::new().unwrap();
        let app = Upstream::start("v1", speaks).await.unwrap();
        let open = Pod::start(&pki, "reviews", Mode::Permissive);
        let mut client = Client::connect(open.inbound(app.address()), version).await;
        let seen = client.send(http::Request::post("/plain"), "a").await;
        assert_eq!((seen.status, seen.header("x-path")), (200, "/plain"));
        assert_eq!(&seen.body[..], b"a");

        let strict = Pod::start(&pki, "reviews", Mode::Strict);
        let back = strict.inbound(app.address());
        assert!(
            say(back, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .is_empty()
        );
        let line =
            r#"weft_protocol_errors_total{listener="inbound",error_type="plaintext_refused"} 1"#;
        let metrics = strict.metrics();
        assert!(metrics.contains(line), "{metrics}");
        assert_eq!(app.requests(), 1);
    }
}

#[tokio::test]
async fn unmeshed_client_gets_greeting_of_server_first_protocol() {
    let app = Upstream::start("v1", Speaks::First).await.unwrap();
    let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Permissive);
    let mut stream = TcpStream::connect(pod.inbound(app.address()))
        .await
        .unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello\n");
}

#[tokio::test]
async fn peer_with_other_root_reaches_no_application() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let stranger = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Strict);
    stranger.tell(vec![
        endpoints("reviews", Protocol::Detect, &[meshed(pair.back, "reviews")]),
        service(
            Protocol::Http1,
            weft_ir::Routing::Direct(vec![to("reviews", 1)]),
        ),
    ]);
    let front = stranger.outbound(SERVICE.parse().unwrap());
    let seen = Client::connect(front, Version::Http1).await.get("/").await;
    assert_eq!(seen.status, 503);
    assert_eq!(pair.app.requests(), 0);
}

#[tokio::test]
async fn unknown_destination_is_passed_through() {
    let app = Upstream::start("outside", Speaks::Http1).await.unwrap();
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Strict);
    pod.tell(vec![weft_api::encode::destination(&Destination {
        address: app.address(),
        target: Target::Unknown,
    })]);
    let mut client = Client::connect(pod.outbound(app.address()), Version::Http1).await;
    let request = http::Request::get("/")
        .header("connection", "x-kept")
        .header("x-kept", "1");
    let seen = client.send(request, "").await;
    assert_eq!((seen.status, seen.header("x-saw-x-kept")), (200, "1"));
    assert!(
        pod.metrics()
            .contains(r#"weft_passthrough_total{reason="unknown_destination"} 1"#)
    );
}

#[tokio::test]
async fn only_permissive_pod_passes_through_without_controller() {
    let app = Upstream::start("outside", Speaks::Http1).await.unwrap();
    let pki = Pki::new().unwrap();
    let open = Pod::start(&pki, "frontend", Mode::Permissive);
    let mut client = Client::connect(open.outbound(app.address()), Version::Http1).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(
        open.metrics()
            .contains(r#"weft_passthrough_total{reason="controller_unreachable"} 1"#)
    );

    let strict = Pod::start(&pki, "frontend", Mode::Strict);
    let back = say(
        strict.outbound(app.address()),
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    )
    .await;
    assert!(back.is_empty());
    let line =
        r#"weft_protocol_errors_total{listener="outbound",error_type="controller_unreachable"} 1"#;
    assert!(strict.metrics().contains(line));
}

#[tokio::test]
async fn direct_pod_address_is_encrypted_without_routes() {
    for version in BOTH {
        let (pair, _) = Pair::for_version(version).await;
        pair.client
            .tell(vec![weft_api::encode::destination(&Destination {
                address: pair.back,
                target: Target::Pod(meshed(pair.back, "reviews")),
            })]);
        let front = pair.client.outbound(pair.back);
        let seen = Client::connect(front, version).await.get("/").await;
        assert_eq!((seen.status, seen.header("x-upstream")), (200, "v1"));
        assert!(
            pair.server
                .metrics()
                .contains(r#"direction="inbound",tls="mesh"} 1"#)
        );
    }
}

#[tokio::test]
async fn hop_by_hop_headers_do_not_reach_application() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-secret\r\nx-secret: 1\r\nkeep-alive: 5\r\nweft-refused: 1\r\nx-kept: 1\r\n\r\n";
    let mut stream = TcpStream::connect(pair.front).await.unwrap();
    stream.write_all(ask).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.contains("x-saw-x-kept: 1"), "{all}");
    for gone in [
        "x-saw-x-secret",
        "x-saw-keep-alive",
        "x-saw-weft-refused",
        "x-forwarded",
        "via:",
    ] {
        assert!(!all.contains(gone), "{gone} in {all}");
    }
}
