//! Bodies that the server sees: whole for the server, for the application and for mirrors.

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ir::{Fraction, Mirror, Retry};

use super::*;

fn with_body(limit: u32) -> ExternalAuth {
    ExternalAuth {
        body_limit: limit,
        ..http_auth(&[], &[])
    }
}

#[tokio::test]
async fn body_is_forwarded_to_the_server_the_application_and_mirrors() {
    let shadow = Upstream::start("shadow", Speaks::Http1).await.unwrap();
    for (at, version) in ALL.into_iter().flat_map(|at| BOTH.map(|of| (at, of))) {
        let mut server = Server::start(Version::Http1, |_| answer(200, &[], "")).await;
        let change = |rule: &mut Rule| {
            if at != At::Sidecar {
                rule.filters.push(Filter::Mirror(Mirror {
                    to: port("v2"),
                    fraction: Fraction::ALL,
                }));
            }
        };
        let more = vec![endpoints(
            "v2",
            Protocol::Detect,
            &[unmeshed(shadow.address())],
        )];
        let filter = with_body(ExternalAuth::MAX_BODY);
        let place = (at, version);
        let scene = Scene::with(place, filter, Some(server.address), change, more).await;
        let mut client = scene.client().await;
        for body in [String::new(), "a".to_owned(), "b".repeat(65_536)] {
            let seen = client.send(Request::post("/"), body.clone()).await;
            assert_eq!(seen.status, 200, "{at:?} {version:?}");
            assert!(seen.body == body, "{at:?} {version:?}");
            let asked = server.last();
            assert!(asked.body == body);
            assert_eq!(asked.header("content-length"), body.len().to_string());
        }
        // A copy whose body is not whole fails.
        let copies = if at == At::Sidecar { 0 } else { 3 };
        let answered = r#"weft_mirrored_requests_total{result="answered"} "#;
        soon(async {
            while scene.count(answered) < copies {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn longer_body_is_refused_unseen() {
    for (at, version) in ALL.into_iter().flat_map(|at| BOTH.map(|of| (at, of))) {
        let mut server = Server::start(Version::Http1, |_| answer(200, &[], "")).await;
        let scene = Scene::new(at, version, with_body(10), Some(server.address)).await;
        let mut client = scene.client().await;
        let seen = client.send(Request::post("/"), "x".repeat(11)).await;
        assert_eq!(seen.status, 413, "{at:?} {version:?}");
        assert!(server.is_unasked());
        assert_eq!(scene.app.requests(), 0);
    }
}

#[tokio::test]
async fn body_of_unknown_length_is_seen_and_bounded() {
    for (chunks, status) in [(2, "200"), (3, "413")] {
        let mut server = Server::start(Version::Http1, |_| answer(200, &[], "")).await;
        let scene = Scene::new(
            At::Rule,
            Version::Http1,
            with_body(10),
            Some(server.address),
        )
        .await;
        let mut client = TcpStream::connect(scene.address()).await.unwrap();
        let chunks = "4\r\nabcd\r\n".repeat(chunks);
        let ask = "POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n";
        let ask = format!("{ask}{chunks}0\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        let head = soon(head(&mut client)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        if status == "200" {
            assert_eq!(server.last().body, "abcdabcd");
        }
    }
}

/// The application gets the body again with each retry.
#[tokio::test]
async fn request_with_a_body_that_was_seen_is_retried() {
    let server = Server::start(Version::Http1, |_| answer(200, &[], "")).await;
    let change = |rule: &mut Rule| {
        rule.retry = Some(Retry {
            codes: vec![http::StatusCode::SERVICE_UNAVAILABLE],
            attempts: 2,
            backoff: Duration::ZERO,
        });
    };
    let place = (At::Rule, Version::Http2);
    let address = Some(server.address);
    let scene = Scene::with(place, with_body(100), address, change, vec![]).await;
    let ask = Request::put("/").header("x-answer", "503");
    let seen = scene.client().await.send(ask, "again").await;
    assert_eq!((seen.status, &seen.body[..]), (503, &b"again"[..]));
    assert_eq!((scene.app.requests(), scene.checks("allowed")), (3, 1));
}

/// Without the body the server decides first, and a denied client need not send any.
#[tokio::test]
async fn client_is_asked_for_its_body_only_once_it_is_needed() {
    for (limit, status) in [(0, "403"), (10, "100")] {
        let server = Server::start(Version::Http1, |_| answer(403, &[], "")).await;
        let scene = Scene::new(
            At::Rule,
            Version::Http1,
            with_body(limit),
            Some(server.address),
        )
        .await;
        let mut client = TcpStream::connect(scene.address()).await.unwrap();
        let ask =
            "POST / HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        client.write_all(ask.as_bytes()).await.unwrap();
        let seen = soon(head(&mut client)).await;
        assert!(seen.starts_with(&format!("HTTP/1.1 {status}")), "{seen}");
        if status == "100" {
            client.write_all(b"ab").await.unwrap();
            let mut rest = [0; 12];
            soon(client.read_exact(&mut rest)).await.unwrap();
            assert_eq!(&rest, b"HTTP/1.1 403");
        }
        assert_eq!(scene.app.requests(), 0);
    }
}
