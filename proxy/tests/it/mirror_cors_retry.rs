//! Mirrors, CORS and retries: what the client receives, and what backends receive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::*;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use weft_ir::{
    Allowed, Cors, Filter, Fraction, Mirror, Mode, Protocol, Retry, RouteKind, Routing, Rule,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// A client pod whose Service has these rules, and applications without proxies behind `v1`, `v2`
/// and so on.
async fn routed(version: Version, apps: &[&[&Upstream]], rules: Vec<Rule>) -> (Pod, Client) {
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    let mut resources = Vec::new();
    for (place, apps) in apps.iter().enumerate() {
        let all: Vec<_> = apps.iter().map(|app| unmeshed(app.address())).collect();
        let name = format!("v{}", place + 1);
        resources.push(endpoints(&name, Protocol::Detect, &all));
    }
    let grpc = rules.iter().any(|rule| rule.route.kind == RouteKind::Grpc);
    let rules = rules.into_iter().map(Arc::new).collect();
    resources.push(match grpc {
        true => service(Protocol::Grpc, Routing::Grpc(rules)),
        false => service(Protocol::Http1, Routing::Http(rules)),
    });
    pod.tell(resources);
    let client = Client::connect(pod.outbound(SERVICE.parse().unwrap()), version).await;
    (pod, client)
}

async fn app(name: &str, version: Version) -> Upstream {
    let speaks = match version {
        Version::Http1 => Speaks::Http1,
        Version::Http2 => Speaks::Http2,
    };
    Upstream::start(name, speaks).await.unwrap()
}

fn mirror(name: &str, numerator: u32, denominator: u32) -> Filter {
    Filter::Mirror(Mirror {
        to: port(name),
        fraction: Fraction::new(numerator, denominator).unwrap(),
    })
}

/// Waits until the metrics contain the line, for at most five seconds.
async fn counted(pod: &Pod, line: &str) {
    let begun = Instant::now();
    while !pod.metrics().lines().any(|seen| seen == line) {
        let metrics = pod.metrics();
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{line}\n{metrics}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn retries(result: &str, count: usize) -> String {
    let labels = concat!(
        r#"direction="outbound","#,
        r#"parent_kind="Service",parent_namespace="shop",parent_name="reviews",parent_port="80","#,
        r#"route_kind="HTTPRoute",route_namespace="shop",route_name="reviews",rule="0","#,
        r#"backend_kind="Service",backend_namespace="shop",backend_name="v1",backend_port="80""#,
    );
    format!(r#"weft_request_retries_total{{{labels},result="{result}"}} {count}"#)
}

fn mirrored(result: &str, count: usize) -> String {
    format!(r#"weft_mirrored_requests_total{{result="{result}"}} {count}"#)
}

#[tokio::test]
async fn mirrors_get_copies_and_their_responses_are_discarded() {
    for version in BOTH {
        let (main, first, second) = (
            app("main", version).await,
            app("first", version).await,
            app("second", version).await,
        );
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.filters = vec![mirror("v2", 1, 1), mirror("v3", 0, 100)];
        rule.backends[0].filters = vec![mirror("v3", 1, 1)];
        let (pod, mut client) =
            routed(version, &[&[&main], &[&first], &[&second]], vec![rule]).await;
        for body in [String::new(), "x".repeat(10_000)] {
            let seen = client.send(Request::post("/"), body.clone()).await;
            assert_eq!((seen.status, seen.header("x-upstream")), (200, "main"));
            assert_eq!(seen.body, body);
        }
        counted(&pod, &mirrored("answered", 4)).await;
        for app in [&main, &first, &second] {
            assert_eq!(app.requests(), 2);
        }
    }
}

#[tokio::test]
async fn declined_upgrade_is_retried_and_mirrored_as_plain_request() {
    let main = app("main", Version::Http1).await;
    let shadow = app("shadow", Version::Http1).await;
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.filters = vec![mirror("v2", 1, 1)];
    rule.retry = retry(&[503], 2);
    let (pod, mut client) = routed(Version::Http1, &[&[&main], &[&shadow]], vec![rule]).await;
    for (body, before) in [("", 0), ("with a body", 3)] {
        let ask = Request::post("/").header("x-answer", "503");
        let ask = ask.header("connection", "upgrade");
        let seen = client.send(ask.header("upgrade", "websocket"), body).await;
        assert_eq!(seen.status, 503);
        assert_eq!(main.requests(), before + 3, "{body}");
    }
    counted(&pod, &mirrored("answered", 2)).await;
    assert_eq!(shadow.requests(), 2);
}

#[tokio::test]
async fn mirror_follows_its_fraction() {
    let (main, shadow) = (
        app("main", Version::Http2).await,
        app("s", Version::Http2).await,
    );
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.filters = vec![mirror("v2", 1, 4)];
    let (_pod, mut client) = routed(Version::Http2, &[&[&main], &[&shadow]], vec![rule]).await;
    for _ in 0..400 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Seven standard deviations of 400 draws at a quarter.
    let copies = shadow.requests();
    assert!((39..=161).contains(&copies), "{copies}");
}

#[tokio::test]
async fn failing_or_hanging_mirrors_do_not_affect_requests() {
    for version in BOTH {
        let (main, hangs) = (
            app("main", version).await,
            Upstream::start("hangs", Speaks::Silent).await.unwrap(),
        );
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.filters = vec![mirror("v2", 1, 1), mirror("nobody", 1, 1)];
        let (pod, mut client) = routed(version, &[&[&main], &[&hangs]], vec![rule]).await;
        let begun = Instant::now();
        // More requests than there are mirror slots, and more bytes than a copy may hold.
        for _ in 0..300 {
            assert_eq!(client.send(Request::post("/"), "body").await.status, 200);
        }
        let large = "x".repeat(1 << 20);
        let seen = client.send(Request::post("/"), large.clone()).await;
        assert_eq!(seen.body.len(), large.len());
        assert!(begun.elapsed() < Duration::from_secs(8));
        let metrics = pod.metrics();
        let dropped = metrics.contains(r#"weft_mirrored_requests_total{result="dropped"}"#);
        assert!(dropped, "{metrics}");
    }
}

#[tokio::test]
async fn cors_preflight_is_answered_and_responses_carry_cors_headers() {
    for version in BOTH {
        let main = app("main", version).await;
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.filters = vec![Filter::Cors(Cors {
            origins: vec!["https://*.shop.example".parse().unwrap()],
            credentials: true,
            methods: Allowed::Any,
            headers: Allowed::These("x-a, x-b".parse().unwrap()),
            expose: Allowed::These("x-c".parse().unwrap()),
            max_age: 60,
        })];
        let (_pod, mut client) = routed(version, &[&[&main]], vec![rule]).await;
        let preflight = |origin: &'static str| {
            Request::options("/")
                .header("origin", origin)
                .header("access-control-request-method", "PUT")
        };
        let seen = client.send(preflight("https://www.shop.example"), "").await;
        assert_eq!(seen.status, 204);
        for (name, value) in [
            ("allow-origin", "https://www.shop.example"),
            ("allow-credentials", "true"),
            ("allow-methods", "PUT"),
            ("allow-headers", "x-a, x-b"),
            ("expose-headers", "x-c"),
            ("max-age", "60"),
        ] {
            assert_eq!(
                seen.header(&format!("access-control-{name}")),
                value,
                "{name}"
            );
        }
        assert_eq!(seen.header("vary"), "Origin");
        let seen = client.send(preflight("https://shop.example"), "").await;
        assert_eq!(
            (seen.status, seen.header("access-control-allow-origin")),
            (204, "")
        );
        assert_eq!(seen.header("vary"), "Origin");
        assert_eq!(main.requests(), 0, "preflights are not forwarded");

        let from = |origin: &str| Request::get("/").header("origin", origin.to_owned());
        let seen = client.send(from("https://a.b.shop.example"), "").await;
        assert_eq!(seen.status, 200);
        assert_eq!(
            seen.header("access-control-allow-origin"),
            "https://a.b.shop.example"
        );
        assert_eq!(seen.header("access-control-expose-headers"), "x-c");
        let seen = client.send(from("https://other.example"), "").await;
        assert_eq!(
            (seen.status, seen.header("access-control-allow-origin")),
            (200, "")
        );
        assert_eq!(seen.header("vary"), "Origin");
        // A cache must not serve this response to another origin either.
        let seen = client.get("/").await;
        assert_eq!((seen.status, seen.header("vary")), (200, "Origin"));
        assert_eq!(main.requests(), 3);
    }
}

fn retry(codes: &[u16], attempts: u32) -> Option<Retry> {
    let codes = codes
        .iter()
        .map(|code| StatusCode::from_u16(*code).unwrap());
    Some(Retry {
        codes: codes.collect(),
        attempts,
        backoff: Duration::from_millis(20),
    })
}

#[tokio::test]
async fn listed_status_codes_are_retried_with_full_body() {
    for version in BOTH {
        let main = app("main", version).await;
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.retry = retry(&[503], 2);
        let (pod, mut client) = routed(version, &[&[&main]], vec![rule]).await;
        let begun = Instant::now();
        let answer = |code| Request::post("/").header("x-answer", code);
        let seen = client.send(answer("503"), "x".repeat(50_000)).await;
        assert_eq!((seen.status, seen.body.len()), (503, 50_000));
        assert_eq!(main.requests(), 3);
        assert!(
            begun.elapsed() >= Duration::from_millis(60),
            "20 ms, then 40 ms"
        );
        assert_eq!(client.send(answer("500"), "x").await.status, 500);
        assert_eq!(main.requests(), 4, "500 is not listed");
        // A body beyond the replay buffer is not sent again.
        let seen = client.send(answer("503"), "x".repeat(1 << 20)).await;
        assert_eq!(seen.status, 503);
        assert_eq!(main.requests(), 5);
        for (result, count) in [
            ("failed", 2),
            ("limit_reached", 1),
            ("body_not_replayable", 1),
        ] {
            counted(&pod, &retries(result, count)).await;
        }
    }
}

#[tokio::test]
async fn backend_timeout_applies_to_each_attempt() {
    for version in BOTH {
        let main = app("main", version).await;
        let hangs = Upstream::start("hangs", Speaks::Silent).await.unwrap();
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.retry = retry(&[], 1);
        rule.timeouts.backend = Duration::from_millis(100).into();
        let (_pod, mut client) = routed(version, &[&[&hangs, &main]], vec![rule]).await;
        for _ in 0..10 {
            let seen = client.get("/").await;
            assert_eq!((seen.status, seen.header("x-upstream")), (200, "main"));
        }
        assert!(hangs.connections() > 0);
    }
}

#[tokio::test]
async fn only_idempotent_or_listed_requests_are_retried() {
    for version in BOTH {
        let main = app("main", version).await;
        let mut unlisted = rule(0, vec![to("v1", 1)]);
        unlisted.retry = retry(&[], 2);
        unlisted.timeouts.backend = Duration::from_millis(50).into();
        let mut listed = Rule {
            index: 1,
            retry: retry(&[504], 2),
            ..unlisted.clone()
        };
        listed.matches[0].path = Some(weft_ir::PathMatch::Prefix("/listed".into()));
        let (_pod, mut client) = routed(version, &[&[&main]], vec![unlisted, listed]).await;
        let slow = |request: http::request::Builder| request.header("x-delay", "5000");
        let seen = client.send(slow(Request::post("/")), "x").await;
        assert_eq!((seen.status, main.requests()), (504, 1));
        let seen = client.send(slow(Request::put("/")), "x").await;
        assert_eq!(
            (seen.status, main.requests()),
            (504, 4),
            "PUT is idempotent"
        );
        let seen = client.send(slow(Request::post("/listed")), "x").await;
        assert_eq!(
            (seen.status, main.requests()),
            (504, 7),
            "the code is listed"
        );
    }
}

#[tokio::test]
async fn request_timeout_spans_all_attempts() {
    let main = app("main", Version::Http1).await;
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.retry = retry(&[504], 1_000);
    rule.timeouts.backend = Duration::from_millis(50).into();
    rule.timeouts.request = Duration::from_millis(400).into();
    let (_pod, mut client) = routed(Version::Http1, &[&[&main]], vec![rule]).await;
    let begun = Instant::now();
    let seen = client
        .send(Request::get("/").header("x-delay", "5000"), "")
        .await;
    assert_eq!(seen.status, 504);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!((2..8).contains(&main.requests()), "{}", main.requests());
}

#[tokio::test]
async fn grpc_calls_are_mirrored_whole() {
    let (main, shadow) = (
        app("main", Version::Http2).await,
        app("s", Version::Http2).await,
    );
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.route.kind = RouteKind::Grpc;
    rule.filters = vec![mirror("v2", 1, 1)];
    let (pod, mut client) = routed(Version::Http2, &[&[&main], &[&shadow]], vec![rule]).await;
    let call = Request::post("/shop.Reviews/Get").header("content-type", "application/grpc");
    let seen = client.send(call, "message").await;
    assert_eq!(seen.trailers["grpc-status"], "0");
    counted(&pod, &mirrored("answered", 1)).await;
    assert_eq!(shadow.requests(), 1);
}

/// Responds with the head and one message of a gRPC response, then hangs.
async fn hanging_grpc() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::builder().header("content-type", "application/grpc");
            let mut stream = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            stream.send_data("one".into(), false).unwrap();
            open.push(stream);
        }
    });
    (address, task)
}

#[tokio::test]
async fn broken_grpc_response_ends_with_status() {
    for (limit, status) in [(Some(Duration::from_millis(100)), "4"), (None, "14")] {
        let (address, app) = hanging_grpc().await;
        let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
        let mut late = rule(0, vec![to("v1", 1)]);
        late.timeouts.request = limit.into();
        pod.tell(vec![
            endpoints("v1", Protocol::Grpc, &[unmeshed(address)]),
            service(Protocol::Grpc, Routing::Http(vec![late.into()])),
        ]);
        let front = pod.outbound(SERVICE.parse().unwrap());
        let mut client = Client::connect(front, Version::Http2).await;
        let call = Request::post("/shop.Reviews/Watch").header("content-type", "application/grpc");
        let response = client.raw(call, "message").await.unwrap();
        if limit.is_none() {
            app.abort();
        }
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert_eq!(trailers["grpc-status"], status, "{trailers:?}");
        let message = trailers["grpc-message"].to_str().unwrap();
        assert!(message.contains("broke off"), "{message}");
        assert_eq!(body.to_bytes(), "one");
    }
}
