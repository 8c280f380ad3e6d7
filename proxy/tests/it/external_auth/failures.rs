//! Servers that are away, hang, break off or lie: the request does not pass.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_ir::{TimeLimit, Timeouts};

use super::*;

/// Sends a request that the server must not have decided on.
async fn is_closed(scene: &Scene, case: &str) {
    let mut client = scene.client().await;
    let seen = soon(client.get("/")).await;
    assert_eq!(seen.status, 403, "{case}");
    let error_type = match scene.proxy {
        Running::Pod(_) => "external_auth_failed",
        // Clients outside the mesh are not told.
        Running::Gateway(..) => "",
    };
    assert_eq!(seen.header("weft-error-type"), error_type, "{case}");
    assert_eq!(scene.app.requests(), 0, "{case}");
    assert!(scene.checks("error") > 0, "{case}");
}

#[tokio::test]
async fn server_that_is_away_denies() {
    for at in ALL {
        let scene = Scene::new(at, Version::Http1, http_auth(&[], &[]), None).await;
        is_closed(&scene, "no endpoint").await;
        let gone = std::net::TcpListener::bind(ANY).unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        let scene = Scene::new(at, Version::Http2, http_auth(&[], &[]), Some(address)).await;
        is_closed(&scene, "nobody listens").await;
    }
}

#[tokio::test]
async fn malformed_response_denies() {
    let large = format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(100_000));
    let long = format!(
        "HTTP/1.1 403 No\r\ncontent-length: 10000000\r\n\r\n{}",
        "a".repeat(200_000)
    );
    for (case, bytes) in [
        ("garbage", "\0\0\0\0garbage\r\n\r\n"),
        ("nothing", ""),
        ("half a head", "HTTP/1.1 200 OK\r\nx-a"),
        ("a head that is too large", &*large),
        ("a body that is too long", &*long),
        (
            "chunks without an end",
            "HTTP/1.1 403 No\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
        ),
        (
            "two lengths",
            "HTTP/1.1 403 No\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        ),
        (
            "another protocol",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n",
        ),
    ] {
        let bytes = bytes.to_owned();
        let address = application(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(bytes.as_bytes()).await;
            }
        })
        .await;
        let scene = Scene::new(
            At::Sidecar,
            Version::Http1,
            http_auth(&[], &[]),
            Some(address),
        )
        .await;
        is_closed(&scene, case).await;
    }
}

#[tokio::test]
async fn server_that_resets_its_connection_denies() {
    let address = application(|mut stream| async move {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        #[allow(deprecated, reason = "a reset is wanted")]
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    for at in ALL {
        let scene = Scene::new(at, Version::Http1, http_auth(&[], &[]), Some(address)).await;
        is_closed(&scene, "reset").await;
    }
}

#[tokio::test]
async fn server_that_hangs_denies_after_ten_seconds_or_the_rule_s_timeout() {
    for limit in [None, Some(Duration::from_millis(50))] {
        let (tell, mut accepted) = mpsc::unbounded_channel();
        let address = application(move |mut stream| {
            let tell = tell.clone();
            async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = tell.send(());
                std::future::pending::<()>().await;
            }
        })
        .await;
        let change = |rule: &mut Rule| {
            rule.timeouts = Timeouts {
                request: limit.into(),
                backend: TimeLimit::Unsaid,
            };
        };
        let place = (At::Sidecar, Version::Http1);
        let filter = http_auth(&[], &[]);
        let scene = Scene::with(place, filter, Some(address), change, vec![]).await;
        let mut client = scene.client().await;
        let asked = async {
            let answer = client.get("/").await;
            (answer.status, answer.header("weft-error-type").to_owned())
        };
        let clock = async {
            accepted.recv().await.unwrap();
            if limit.is_none() {
                tokio::time::pause();
                tokio::time::advance(Duration::from_millis(10_001)).await;
                tokio::time::resume();
            }
        };
        let (seen, ()) = tokio::join!(asked, clock);
        let expected = match limit {
            None => (403, "external_auth_failed"),
            Some(_) => (504, "request_timeout"),
        };
        assert_eq!((seen.0, &*seen.1), expected);
        assert_eq!(scene.app.requests(), 0);
    }
}

/// A response that says all in its head is a decision, whatever becomes of its body.
#[tokio::test]
async fn body_of_an_allowing_response_is_not_waited_for() {
    let address = application(|mut stream| async move {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let head = "HTTP/1.1 200 OK\r\nx-user: ana\r\ncontent-length: 10000000\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let filter = http_auth(&[], &["x-user"]);
    let scene = Scene::new(At::Rule, Version::Http1, filter, Some(address)).await;
    let seen = soon(scene.client().await.get("/")).await;
    assert_eq!((seen.status, seen.header("x-saw-x-user")), (200, "ana"));
}
