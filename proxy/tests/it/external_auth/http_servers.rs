//! Servers that speak HTTP.

use http::Request;

use super::*;

#[tokio::test]
async fn allowed_request_has_what_the_server_says_and_the_client_cannot_forge_it() {
    for (at, version) in ALL.into_iter().flat_map(|at| BOTH.map(|of| (at, of))) {
        let mut server = Server::start(Version::Http1, |_| {
            let headers = [
                ("x-user", "ana"),
                ("x-other", "1"),
                ("host", "evil"),
                ("x-forwarded-for", "9.9.9.9"),
            ];
            answer(200, &headers, "ignored")
        })
        .await;
        let filter = http_auth(&["cookie"], &["x-user"]);
        let scene = Scene::new(at, version, filter, Some(server.address)).await;
        let mut client = scene.client().await;
        let ask = Request::post("/a/b?c=d")
            .header("host", "shop.example.com")
            .header("authorization", "Bearer 1")
            .header("cookie", "s=1")
            .header("x-secret", "1")
            .header("x-user", "forged")
            .header("x_user", "forged");
        let seen = client.send(ask, "body").await;
        assert_eq!(seen.status, 200, "{at:?} {version:?} {seen:?}");
        assert_eq!(seen.header("x-saw-x-user"), "ana");
        assert_eq!(seen.header("x-saw-x_user"), "");
        assert_eq!(seen.header("x-saw-x-other"), "");
        assert_eq!(host_of(&seen), "shop.example.com");
        assert_ne!(seen.header("x-saw-x-forwarded-for"), "9.9.9.9");
        assert_eq!(seen.body, "body");
        let asked = server.last();
        assert_eq!(asked.head.method, "POST");
        assert_eq!(asked.head.uri, "/check/a/b?c=d");
        assert_eq!(asked.header("host"), "shop.example.com");
        assert_eq!(asked.header("authorization"), "Bearer 1");
        assert_eq!(asked.header("cookie"), "s=1");
        assert_eq!(asked.header("content-length"), "0");
        let mut sent: Vec<&str> = asked.head.headers.keys().map(|of| of.as_str()).collect();
        sent.sort_unstable();
        assert_eq!(sent, ["authorization", "content-length", "cookie", "host"]);
        assert_eq!(scene.checks("allowed"), 1);
    }
}

#[tokio::test]
async fn without_a_list_all_headers_are_copied_but_those_of_the_message() {
    let server = Server::start(Version::Http1, |_| {
        let headers = [
            ("x-user", "ana"),
            ("x-user", "bea"),
            ("content-type", "text/html"),
            ("weft-error", "forged"),
        ];
        answer(200, &headers, "page")
    })
    .await;
    let scene = Scene::new(
        At::Rule,
        Version::Http1,
        http_auth(&[], &[]),
        Some(server.address),
    )
    .await;
    let mut client = scene.client().await;
    let ask = Request::post("/").header("content-type", "application/json");
    let seen = client.send(ask, "{}").await;
    assert_eq!(seen.status, 200);
    let users: Vec<_> = seen.headers.get_all("x-saw-x-user").iter().collect();
    assert!(!users.is_empty());
    assert_eq!(seen.header("x-saw-content-type"), "application/json");
    assert_eq!(seen.header("x-saw-weft-error"), "");
    assert_eq!(seen.body, "{}");
}

#[tokio::test]
async fn denial_is_the_client_s_response_with_its_cookies() {
    for (at, version) in ALL.into_iter().flat_map(|at| BOTH.map(|of| (at, of))) {
        let server = Server::start(Version::Http1, |_| {
            let headers = [
                ("location", "https://login.example.com/?rd=/a"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("weft-refused", "1"),
            ];
            answer(302, &headers, "please log in")
        })
        .await;
        let scene = Scene::new(at, version, http_auth(&[], &[]), Some(server.address)).await;
        let mut client = scene.client().await;
        for path in ["/a", "/b"] {
            let seen = client.get(path).await;
            assert_eq!(seen.status, 302, "{at:?} {version:?}");
            let cookies: Vec<_> = seen.headers.get_all("set-cookie").iter().collect();
            assert_eq!(cookies, ["a=1", "b=2"]);
            assert_eq!(seen.header("location"), "https://login.example.com/?rd=/a");
            assert_eq!(seen.body, "please log in");
            for gone in ["x-hop", "weft-refused", "weft-error"] {
                assert_eq!(seen.header(gone), "");
            }
        }
        let head = client.send(Request::head("/"), "").await;
        assert_eq!((head.status, head.body.len()), (302, 0));
        assert_eq!((scene.app.requests(), scene.checks("denied")), (0, 3));
    }
}

/// Any other code than 200 is a denial, also of success.
#[tokio::test]
async fn only_200_allows() {
    for status in [201, 202, 204, 301, 401, 403, 500, 503] {
        let server = Server::start(Version::Http1, move |_| answer(status, &[], "")).await;
        let scene = Scene::new(
            At::Rule,
            Version::Http2,
            http_auth(&[], &[]),
            Some(server.address),
        )
        .await;
        let seen = scene.client().await.get("/").await;
        assert_eq!(seen.status, status);
        assert_eq!(scene.app.requests(), 0, "{status}");
    }
}

#[tokio::test]
async fn filters_before_it_apply_to_what_the_server_sees_and_those_after_it_do_not() {
    use weft_ir::{HeaderEdit, PathEdit, Redirect, Rewrite};
    let mut server = Server::start(Version::Http1, |_| answer(200, &[], "")).await;
    let edit = |name| HeaderEdit {
        set: vec![(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static("1"),
        )],
        ..HeaderEdit::default()
    };
    let change = |rule: &mut Rule| {
        rule.filters
            .insert(0, Filter::RequestHeaders(edit("x-before")));
        rule.filters.push(Filter::Rewrite(Rewrite {
            host: None,
            path: Some(PathEdit::Full("/after".into())),
        }));
    };
    let filter = http_auth(&["x-before"], &["x-user"]);
    let address = Some(server.address);
    let scene = Scene::with(
        (At::Rule, Version::Http1),
        filter.clone(),
        address,
        change,
        vec![],
    )
    .await;
    let seen = scene.client().await.get("/asked").await;
    assert_eq!((seen.status, seen.header("x-path")), (200, "/after"));
    let asked = server.last();
    assert_eq!(asked.head.uri, "/check/asked");
    assert_eq!(asked.header("x-before"), "1");
    // A redirect before it answers without a check.
    let change = |rule: &mut Rule| {
        let redirect = Redirect {
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            code: http::StatusCode::FOUND,
        };
        rule.filters.insert(0, Filter::Redirect(redirect));
    };
    let scene = Scene::with((At::Rule, Version::Http1), filter, address, change, vec![]).await;
    let seen = scene.client().await.get("/").await;
    assert_eq!(seen.status, 302);
    assert!(server.is_unasked());
}

#[tokio::test]
async fn filter_of_a_backend_decides_on_its_share() {
    let server = Server::start(Version::Http1, |_| answer(403, &[], "no")).await;
    let change = |rule: &mut Rule| {
        let filters = std::mem::take(&mut rule.filters);
        rule.backends[0].filters = filters;
    };
    let filter = http_auth(&[], &[]);
    let scene = Scene::with(
        (At::Sidecar, Version::Http1),
        filter,
        Some(server.address),
        change,
        vec![],
    )
    .await;
    let seen = scene.client().await.get("/").await;
    assert_eq!((seen.status, scene.app.requests()), (403, 0));
}

#[tokio::test]
async fn upgrade_passes_once_its_request_is_allowed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = application(|mut stream| async move {
        let seen = head(&mut stream).await;
        assert!(seen.to_lowercase().contains("upgrade: echo"), "{seen}");
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(switched.as_bytes()).await.unwrap();
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    })
    .await;
    for (status, switched) in [(200, "101"), (403, "403")] {
        let mut server = Server::start(Version::Http1, move |_| answer(status, &[], "")).await;
        let more = vec![endpoints("v2", Protocol::Detect, &[unmeshed(app)])];
        let change = |rule: &mut Rule| rule.backends = vec![to("v2", 1)];
        let place = (At::Rule, Version::Http1);
        let auth = http_auth(&[], &[]);
        let scene = Scene::with(place, auth, Some(server.address), change, more).await;
        let mut client = tokio::net::TcpStream::connect(scene.address())
            .await
            .unwrap();
        let ask = "GET / HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        client.write_all(ask.as_bytes()).await.unwrap();
        let seen = soon(head(&mut client)).await;
        assert!(seen.starts_with(&format!("HTTP/1.1 {switched}")), "{seen}");
        assert_eq!(server.last().header("upgrade"), "");
        if switched == "101" {
            client.write_all(b"ab").await.unwrap();
            let mut bytes = [0; 2];
            soon(client.read_exact(&mut bytes)).await.unwrap();
            assert_eq!(&bytes, b"ab");
        }
    }
}
