//! Limits of what a client's proxy sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ir::{Filter, Mirror, Retry, Rule, TimeLimit, Timeouts};
use weft_testkit::pki::Pki;

use super::*;

/// A client pod with a limit, and the application without a proxy.
struct Limited {
    pod: Pod,
    app: App,
    front: SocketAddr,
    protocol: Protocol,
}

impl Limited {
    async fn start(protocol: Protocol, limits: ClientLimits) -> Self {
        let app = App::start().await;
        let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
        let endpoints = vec![unmeshed(app.address)];
        pod.tell(vec![
            set(endpoints, protocol, Some(limits)),
            direct(protocol),
        ]);
        let front = pod.outbound(SERVICE.parse().unwrap());
        Self {
            pod,
            app,
            front,
            protocol,
        }
    }

    fn change(&self, limits: Option<ClientLimits>) {
        let endpoints = vec![unmeshed(self.app.address)];
        self.pod.tell(vec![set(endpoints, self.protocol, limits)]);
    }

    fn route(&self, rule: Rule) {
        let rules = vec![Arc::new(rule)];
        self.pod
            .tell(vec![service(self.protocol, Routing::Http(rules))]);
    }

    async fn get(&self, path: &str) -> TestResponse {
        Client::connect(self.front, Version::Http1)
            .await
            .get(path)
            .await
    }
}

#[tokio::test]
async fn request_beyond_the_limit_of_its_client_fails_with_the_cause() {
    for version in BOTH {
        let limited = Limited::start(Protocol::Detect, of_requests(2, None)).await;
        let held = [0; 2].map(|_| get(limited.front, version, "/"));
        limited.app.has(2).await;
        let mut client = Client::connect(limited.front, version).await;
        let refused = client.get("/").await;
        assert_eq!(refused.status, 503, "{version:?}");
        assert_eq!(
            refused.header("weft-error"),
            "limits.client: 2 requests are under way"
        );
        assert_eq!(refused.header("weft-error-type"), "client_request_limit");
        assert_shed(&limited.pod, "client_request_limit", 1);
        if version == Version::Http2 {
            let refused = client.send(grpc(), "").await;
            assert_eq!(refused.header("grpc-status"), "14", "{refused:?}");
        }
        limited.app.release(3);
        for held in held {
            assert_eq!(held.await.unwrap().status, 200);
        }
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn place_is_kept_until_the_end_of_the_response() {
    for version in BOTH {
        let queue = Some((1, LONG));
        let limited = Limited::start(Protocol::Detect, of_requests(1, queue)).await;
        let mut client = Client::connect(limited.front, version).await;
        let begun = client.raw(Request::get("/body"), "").await.unwrap();
        let next = get(limited.front, version, "/now");
        waiting(&limited.pod, "client", 1).await;
        assert_eq!(limited.app.counts().all, 1, "{version:?}");
        limited.app.release(1);
        let body = begun.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"body");
        assert_eq!(next.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn requests_wait_in_the_order_of_arrival() {
    let queue = Some((3, LONG));
    let limited = Limited::start(Protocol::Http1, of_requests(1, queue)).await;
    let held = get(limited.front, Version::Http1, "/");
    limited.app.has(1).await;
    let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
    for place in 0..3 {
        let (done, front) = (done.clone(), limited.front);
        tokio::spawn(async move {
            let mut client = Client::connect(front, Version::Http1).await;
            let seen = client.get("/").await;
            done.send((place, seen.status)).unwrap();
        });
        waiting(&limited.pod, "client", place + 1).await;
    }
    let full = limited.get("/").await;
    assert_eq!(
        full.header("weft-error"),
        "limits.client: 1 requests are under way, and 3 wait"
    );
    limited.app.release(1);
    assert_eq!(held.await.unwrap().status, 200);
    for place in 0..3 {
        limited.app.release(1);
        assert_eq!(order.recv().await.unwrap(), (place, 200));
    }
    assert_eq!(limited.app.counts().most, 1);
}

#[tokio::test]
async fn client_that_goes_away_frees_its_place() {
    for version in BOTH {
        let limited = Limited::start(Protocol::Detect, of_requests(1, Some((1, LONG)))).await;
        let held = get(limited.front, version, "/");
        limited.app.has(1).await;
        let gone = get(limited.front, version, "/");
        waiting(&limited.pod, "client", 1).await;
        gone.abort();
        waiting(&limited.pod, "client", 0).await;
        held.abort();
        limited.app.has(0).await;
        assert_eq!(limited.get("/now").await.status, 200, "{version:?}");
    }
}

#[tokio::test]
async fn timeout_of_the_rule_bounds_the_wait() {
    let limited = Limited::start(Protocol::Http1, of_requests(1, Some((5, LONG)))).await;
    let held = get(limited.front, Version::Http1, "/");
    limited.app.has(1).await;
    limited.route(Rule {
        timeouts: Timeouts {
            request: TimeLimit::Within(Duration::from_millis(50)),
            backend: TimeLimit::Unsaid,
        },
        ..rule(0, vec![to("reviews", 1)])
    });
    let late = limited.get("/").await;
    assert_eq!(late.header("weft-error-type"), "request_timeout");
    waiting(&limited.pod, "client", 0).await;
    limited.app.release(1);
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn limit_of_a_client_changes_under_load() {
    let queue = Some((10, LONG));
    let limited = Limited::start(Protocol::Http1, of_requests(3, queue)).await;
    let requests: Vec<_> = (0..6)
        .map(|_| get(limited.front, Version::Http1, "/"))
        .collect();
    limited.app.has(3).await;
    waiting(&limited.pod, "client", 3).await;
    limited.change(Some(of_requests(2, queue)));
    limited.app.release(1);
    limited.app.has(2).await;
    waiting(&limited.pod, "client", 3).await;
    limited.app.release(1);
    waiting(&limited.pod, "client", 2).await;
    limited.change(None);
    waiting(&limited.pod, "client", 0).await;
    limited.app.has(4).await;
    limited.app.release(4);
    for request in requests {
        assert_eq!(request.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn count_survives_a_moment_without_endpoints() {
    let limited = Limited::start(Protocol::Http1, of_requests(1, None)).await;
    let held = get(limited.front, Version::Http1, "/");
    limited.app.has(1).await;
    let none = set(Vec::new(), Protocol::Http1, Some(of_requests(1, None)));
    limited.pod.tell(vec![none]);
    limited.change(Some(of_requests(1, None)));
    let refused = limited.get("/now").await;
    assert_eq!(refused.header("weft-error-type"), "client_request_limit");
    limited.app.release(1);
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn retry_takes_the_place_of_the_attempt_before() {
    let limited = Limited::start(Protocol::Http1, of_requests(1, None)).await;
    let mut retried = rule(0, vec![to("reviews", 1)]);
    retried.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 2,
        backoff: Duration::ZERO,
    });
    limited.route(retried);
    assert_eq!(limited.get("/fail").await.status, 200);
    assert_eq!(limited.app.counts().all, 2);
}

#[tokio::test]
async fn mirror_takes_no_place() {
    let limited = Limited::start(Protocol::Http1, of_requests(1, None)).await;
    let mut mirrored = rule(0, vec![to("reviews", 1)]);
    mirrored.filters = vec![Filter::Mirror(Mirror {
        to: port("reviews"),
        fraction: weft_ir::Fraction::ALL,
    })];
    limited.route(mirrored);
    let request = get(limited.front, Version::Http1, "/");
    limited.app.has(2).await;
    limited.app.release(2);
    assert_eq!(request.await.unwrap().status, 200);
}

#[tokio::test]
async fn request_that_its_client_limits_is_not_sent_again() {
    let limited = Limited::start(Protocol::Http1, of_requests(1, None)).await;
    let held = get(limited.front, Version::Http1, "/");
    limited.app.has(1).await;
    let mut retried = rule(0, vec![to("reviews", 1)]);
    retried.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 5,
        backoff: Duration::ZERO,
    });
    limited.route(retried);
    assert_eq!(limited.get("/").await.status, 503);
    assert_shed(&limited.pod, "client_request_limit", 1);
    limited.app.release(1);
    assert_eq!(held.await.unwrap().status, 200);
}

/// Expects a limit of one request, without a queue.
pub(super) async fn assert_upgrade_keeps_its_place(front: SocketAddr, error_type: &str) {
    let mut client = Client::connect(front, Version::Http1).await;
    let upgrade = Request::get("/upgrade")
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    let switched = client.raw(upgrade, "").await.unwrap();
    assert_eq!(switched.status(), 101);
    let mut tunnel = TokioIo::new(hyper::upgrade::on(switched).await.unwrap());
    let mut echoed = [0; 4];
    for _ in 0..3 {
        tunnel.write_all(b"ping").await.unwrap();
        tunnel.read_exact(&mut echoed).await.unwrap();
        let mut other = Client::connect(front, Version::Http1).await;
        let refused = other.get("/now").await;
        assert_eq!(refused.header("weft-error-type"), error_type, "{refused:?}");
    }
    drop(tunnel);
    let begun = Instant::now();
    loop {
        let mut other = Client::connect(front, Version::Http1).await;
        if other.get("/now").await.status == 200 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the place is not free");
    }
}

#[tokio::test]
async fn upgraded_connection_keeps_its_place() {
    let limited = Limited::start(Protocol::Http1, of_requests(1, None)).await;
    assert_upgrade_keeps_its_place(limited.front, "client_request_limit").await;
}

#[tokio::test]
async fn connection_of_bytes_beyond_the_limit_is_closed() {
    let echo = application(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    let limits = |most| {
        Some(ClientLimits {
            max_connections: NonZeroU32::new(most),
            requests: None,
        })
    };
    let endpoints = vec![unmeshed(echo.await)];
    let limited = |most| set(endpoints.clone(), Protocol::Tcp, limits(most));
    pod.tell(vec![limited(2), direct(Protocol::Tcp)]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let open = async || {
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut echoed = [0; 4];
        let echoed = stream.read_exact(&mut echoed).await;
        echoed.ok().map(|_| stream)
    };
    let (first, second) = (open().await.unwrap(), open().await.unwrap());
    assert!(open().await.is_none());
    assert_shed(&pod, "client_connection_limit", 1);
    let line = "weft_protocol_errors_total{listener=\"outbound\",\
                error_type=\"client_connection_limit\"} 1";
    assert!(pod.metrics().contains(line), "{}", pod.metrics());
    // One that has ended makes room, and a smaller limit closes none.
    drop(first);
    let begun = Instant::now();
    let third = loop {
        if let Some(stream) = open().await {
            break stream;
        }
        assert!(begun.elapsed() < PATIENCE, "the place is not free");
    };
    pod.tell(vec![limited(1)]);
    assert!(open().await.is_none());
    pod.tell(vec![set(endpoints.clone(), Protocol::Tcp, None)]);
    let _fourth = open().await.unwrap();
    drop((second, third));
}
