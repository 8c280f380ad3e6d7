//! Requests and bytes through a pair of proxies, outbound and inbound, over mutual TLS.

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ir::Protocol;
use weft_testkit::upstream::Speaks;

#[tokio::test]
async fn request_keeps_its_http_version_over_mutual_tls() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        for _ in 0..3 {
            let request = http::Request::put("/a/b?c=d").header("x-own", "1");
            let seen = client.send(request, "hello").await;
            assert_eq!(seen.status, 200, "{version:?} {seen:?}");
            assert_eq!(&seen.body[..], b"hello");
            assert_eq!(seen.header("x-path"), "/a/b?c=d");
            assert_eq!(seen.header("x-saw-x-own"), "1");
            let (expected_version, host) = match version {
                Version::Http1 => ("HTTP/1.1", "x-saw-host"),
                Version::Http2 => ("HTTP/2.0", "x-authority"),
            };
            assert_eq!(seen.header("x-version"), expected_version);
            assert_eq!(seen.header(host), "reviews");
        }
        assert_eq!(pair.app.requests(), 3);
        assert_eq!(pair.app.connections(), 1, "connections are reused");
        let metrics = pair.server.metrics();
        assert!(
            metrics.contains(r#"weft_tls_handshakes_total{direction="inbound",result="ok"} 1"#),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn large_bodies_pass_both_directions() {
    for version in BOTH {
        let (_pair, mut client) = Pair::for_version(version).await;
        let body: Vec<u8> = (0..10 << 20).map(|n: u32| (n % 251) as u8).collect();
        let seen = client.send(http::Request::post("/"), body.clone()).await;
        assert_eq!(seen.status, 200);
        assert!(seen.body[..] == body[..], "{version:?}: the body changed");
    }
}

#[tokio::test]
async fn grpc_trailers_pass_through() {
    let (_pair, mut client) = Pair::for_version(Version::Http2).await;
    let request = http::Request::post("/shop.Reviews/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-grpc-status", "5");
    let seen = client.send(request, "message").await;
    assert_eq!(seen.trailers["grpc-status"], "5");
    assert_eq!(seen.header("x-saw-te"), "trailers");
    let metrics = _pair.client.metrics();
    assert!(metrics.contains(r#"grpc_status="5""#), "{metrics}");
}

#[tokio::test]
async fn responses_to_head_204_and_304_have_no_body() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        let seen = client.send(http::Request::head("/"), "").await;
        assert_eq!((seen.status, seen.body.len()), (200, 0), "{version:?}");
        for code in ["204", "304"] {
            let request = http::Request::get("/").header("x-answer", code);
            let seen = client.send(request, "").await;
            assert_eq!(
                (seen.status.to_string().as_str(), seen.body.len()),
                (code, 0)
            );
        }
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(pair.app.requests(), 4);
    }
}

#[tokio::test]
async fn http_1_0_client_is_served() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.front).await.unwrap();
    stream
        .write_all(b"GET /old HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.0 200"), "{all}");
    assert!(
        all.contains("x-path: /old") && all.contains("x-saw-host: 192.0.2.1:80"),
        "{all}"
    );
    assert!(!all.to_lowercase().contains("chunked"), "{all}");
}

#[tokio::test]
async fn opaque_tcp_passes_for_client_first_and_server_first() {
    for (speaks, greeting) in [(Speaks::Echo, &b""[..]), (Speaks::First, b"hello\n")] {
        let pair = Pair::start(speaks, Protocol::Detect).await;
        let mut stream = TcpStream::connect(pair.front).await.unwrap();
        let mut hello = vec![0; greeting.len()];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello, greeting);
        stream.write_all(b"\x00\x01bytes").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"\x00\x01bytes");
        let metrics = pair.client.metrics();
        assert!(
            metrics.contains(r#"weft_connections_total{direction="outbound",tls="mesh"} 1"#),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn late_http_request_is_still_proxied_as_http() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.front).await.unwrap();
    // Late enough for the proxy to have opened the upstream connection as opaque TCP; the request
    // then opens a second one.
    while pair.app.connections() == 0 {
        tokio::task::yield_now().await;
    }
    stream
        .write_all(b"GET /late HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(
        all.starts_with("HTTP/1.1 200") && all.contains("x-path: /late"),
        "{all}"
    );
    assert_eq!(pair.app.requests(), 1);
}

#[tokio::test]
async fn upgraded_connection_passes_bytes() {
    let proxies = Proxies::serving(Protocol::Http1, |mut stream| async move {
        let asked = head(&mut stream).await.to_lowercase();
        assert!(
            asked.contains("upgrade: websocket") && asked.contains("connection: upgrade"),
            "{asked}"
        );
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly";
        stream.write_all(answer).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let mut stream = proxies.connect().await;
    let ask = b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"earlyping");
}

#[tokio::test]
async fn server_identity_must_match_endpoint() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        let impostor = [meshed(pair.back, "somebody-else")];
        pair.client
            .tell(vec![endpoints("reviews", Protocol::Detect, &impostor)]);
        let seen = client.get("/").await;
        assert_eq!(seen.status, 503);
        assert!(
            seen.header("weft-error")
                .contains("which must be spiffe://cluster.local/ns/shop/sa/somebody-else"),
            "{seen:?}"
        );
        assert_eq!(pair.app.requests(), 0);
    }
}

#[tokio::test]
async fn request_moves_when_application_refuses_connection() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        let closed = tokio::net::TcpListener::bind(ANY).await.unwrap();
        let dead_app = closed.local_addr().unwrap();
        drop(closed);
        let dead_pod = pair.server.inbound(dead_app);
        let both = [
            meshed(dead_pod, "reviews"),
            meshed(pair.back, "reviews"),
            unmeshed(dead_app),
        ];
        pair.client
            .tell(vec![endpoints("reviews", Protocol::Detect, &both)]);
        for _ in 0..20 {
            let seen = client.send(http::Request::post("/"), "kept").await;
            assert_eq!(
                (seen.status, &seen.body[..]),
                (200, &b"kept"[..]),
                "{version:?} {seen:?}"
            );
        }
        pair.client
            .tell(vec![endpoints("reviews", Protocol::Detect, &both[..1])]);
        let seen = client.send(http::Request::post("/"), "kept").await;
        assert_eq!(seen.status, 503);
        assert_eq!(
            seen.header("weft-refused"),
            "",
            "weft-refused is removed for clients"
        );
        assert!(
            seen.header("weft-error")
                .contains("turned the request away"),
            "{seen:?}"
        );
        assert_eq!(seen.header("weft-error-type"), "upstream_refused");
    }
}

#[tokio::test]
async fn drain_completes_requests_in_flight() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        let request = http::Request::post("/").header("x-delay", "200");
        let answer = client.raw(request, vec![7; 1 << 20]);
        let drained = async {
            while pair.app.requests() == 0 {
                tokio::task::yield_now().await;
            }
            let bound = std::time::Duration::from_secs(20);
            tokio::join!(
                pair.client.shutdown.drain(bound),
                pair.server.shutdown.drain(bound)
            )
        };
        let collected = async {
            use http_body_util::BodyExt;
            answer
                .await
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
        };
        let (body, cut) = tokio::join!(collected, drained);
        assert_eq!(body.len(), 1 << 20);
        assert_eq!(cut, (0, 0), "{version:?}");
    }
}

/// As before SIGTERM to a pod: requests in flight complete, later ones use a new connection.
#[tokio::test]
async fn peer_drain_fails_no_request() {
    for version in BOTH {
        let (pair, mut slow) = Pair::for_version(version).await;
        let request = http::Request::post("/").header("x-delay", "500");
        let slow = slow.raw(request, vec![7; 1 << 20]);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let slow_arrived = async || {
            while pair.app.requests() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let busy = async {
            slow_arrived().await;
            let mut client = Client::connect(pair.front, version).await;
            let mut answered = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let seen = client.send(http::Request::post("/"), "sent").await;
                assert_eq!(
                    (seen.status, &seen.body[..]),
                    (200, &b"sent"[..]),
                    "{seen:?}"
                );
                answered += 1;
            }
            answered
        };
        let drained_peers = async {
            slow_arrived().await;
            let begun = std::time::Instant::now();
            pair.server.shutdown.peers().drain().await;
            let waited = begun.elapsed();
            assert!(
                waited.as_millis() > 150,
                "the drain waits for the slow request: {waited:?}"
            );
            let before = pair.app.requests();
            while pair.app.requests() < before + 20 {
                tokio::task::yield_now().await;
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        let slow = async {
            use http_body_util::BodyExt;
            let body = slow.await.unwrap().into_body();
            body.collect().await.unwrap().to_bytes().len()
        };
        let (slow, answered, ()) = tokio::join!(slow, busy, drained_peers);
        assert_eq!(slow, 1 << 20, "{version:?}");
        assert!(answered >= 19, "{answered}");
    }
}

#[tokio::test]
async fn silent_connections_do_not_delay_drain() {
    let pair = Pair::start(Speaks::Http1, Protocol::Http1).await;
    let _silent = TcpStream::connect(pair.front).await.unwrap();
    let _silent_too = TcpStream::connect(pair.back).await.unwrap();
    let idle = &mut Client::connect(pair.front, Version::Http1).await;
    assert_eq!(idle.get("/").await.status, 200);
    let begun = std::time::Instant::now();
    let bound = std::time::Duration::from_secs(20);
    let cut = tokio::join!(
        pair.client.shutdown.drain(bound),
        pair.server.shutdown.drain(bound)
    );
    assert_eq!(cut, (0, 0));
    assert!(begun.elapsed() < bound / 4);
}

/// Each cookie crumb counts as a field.
#[tokio::test]
async fn request_with_too_many_fields_gets_431() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        for (fields, status) in [(300, 200), (520, 431)] {
            let mut request = http::Request::get("/");
            for _ in 0..fields {
                request = request.header("cookie", "a=b");
            }
            let seen = client.send(request, "").await;
            assert_eq!(seen.status, status, "{version:?}, {fields} fields");
            let is_explained = seen.header("weft-error").contains("512 fields");
            assert_eq!(
                is_explained,
                status == 431,
                "{version:?}: {:?}",
                seen.headers
            );
        }
        assert_eq!(pair.app.requests(), 1);
    }
}

/// For gRPC as a gRPC status; heads beyond the codec's limit are answered by HTTP/2 itself.
#[tokio::test]
async fn oversized_request_head_gets_431_or_grpc_status() {
    let (pair, mut client) = Pair::for_version(Version::Http2).await;
    for (kib, kind, answer) in [
        (15, "text/plain", ("200", "", "")),
        (
            65,
            "text/plain",
            (
                "431",
                "",
                "the head of the request is over 64 KiB or 512 fields",
            ),
        ),
        (
            65,
            "application/grpc",
            (
                "200",
                "8",
                "the head of the request is over 64 KiB or 512 fields",
            ),
        ),
        (130, "application/grpc", ("431", "", "")),
    ] {
        let request = http::Request::post("/shop.Reviews/Get")
            .header("content-type", kind)
            .header("x-long", "x".repeat(kib << 10));
        let seen = client.send(request, "").await;
        let status = seen.status.to_string();
        let found = (
            &*status,
            seen.header("grpc-status"),
            seen.header("weft-error"),
        );
        assert_eq!(found, answer, "{kib} {kind}");
        let message = if found.1.is_empty() { "" } else { found.2 };
        assert_eq!(seen.header("grpc-message"), message);
    }
    assert_eq!(pair.app.requests(), 1);
}
