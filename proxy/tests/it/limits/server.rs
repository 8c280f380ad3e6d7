//! Limits of what a pod gets, which its own proxy enforces.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weft_ir::{EjectionTime, OutlierDetection, Percent, Probe, ProbeRequest, RetryBudget};
use weft_testkit::pki::Pki;

use super::*;

/// A pod with a limit, and its application.
struct Server {
    pod: Pod,
    app: App,
    back: SocketAddr,
}

impl Server {
    async fn start(pki: &Pki, limit: RequestLimit) -> Self {
        let app = App::start().await;
        let pod = Pod::start(pki, "reviews", Mode::Permissive);
        pod.tell(vec![limited(
            &pod,
            Mode::Permissive,
            app.address,
            Some(limit),
        )]);
        let back = pod.inbound(app.address);
        Self { pod, app, back }
    }

    fn endpoint(&self) -> weft_ir::Endpoint {
        meshed(self.back, "reviews")
    }

    fn change(&self, limit: Option<RequestLimit>) {
        let workload = limited(&self.pod, Mode::Permissive, self.app.address, limit);
        self.pod.tell(vec![workload]);
    }
}

/// A client pod, and where its application connects to.
fn client(pki: &Pki, servers: &[&Server]) -> (Pod, SocketAddr) {
    let pod = Pod::start(pki, "frontend", Mode::Strict);
    let endpoints = servers.iter().map(|server| server.endpoint()).collect();
    pod.tell(vec![
        set(endpoints, Protocol::Detect, None),
        direct(Protocol::Detect),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    (pod, front)
}

#[tokio::test]
async fn application_never_has_more_requests_than_its_limit() {
    for version in BOTH {
        let pki = Pki::new().unwrap();
        let server = Server::start(&pki, request_limit(10, Some((90, LONG)))).await;
        let clients: Vec<_> = (0..5).map(|_| client(&pki, &[&server])).collect();
        // Five proxies of the mesh, and five clients in plain text.
        let fronts = clients.iter().map(|(_, front)| *front);
        let fronts: Vec<_> = fronts.chain([server.back; 5]).collect();
        let requests = fronts.iter().flat_map(|front| [*front; 10]);
        let requests: Vec<_> = requests.map(|front| get(front, version, "/")).collect();
        server.app.has(10).await;
        waiting(&server.pod, "server", 90).await;
        assert_eq!(server.app.counts().all, 10);
        server.app.release(100);
        for request in requests {
            assert_eq!(request.await.unwrap().status, 200, "{version:?}");
        }
        let counts = server.app.counts();
        assert_eq!((counts.most, counts.all), (10, 100), "{version:?}");
        waiting(&server.pod, "server", 0).await;
    }
}

#[tokio::test]
async fn request_beyond_the_queue_fails_with_the_cause() {
    let pki = Pki::new().unwrap();
    let server = Server::start(&pki, request_limit(1, Some((1, LONG)))).await;
    let (pod, front) = client(&pki, &[&server]);
    let held = get(front, Version::Http1, "/");
    server.app.has(1).await;
    let waits = get(server.back, Version::Http2, "/");
    waiting(&server.pod, "server", 1).await;
    let own = "limits.server: 1 requests are under way, and 1 wait";
    let of_client = "every endpoint of shop/reviews:80 that was tried has as many requests as limits.server \
         allows";
    for (address, words) in [(server.back, own), (front, of_client)] {
        for version in BOTH {
            let refused = Client::connect(address, version).await.get("/").await;
            assert_eq!(refused.status, 503, "{version:?} {refused:?}");
            assert_eq!(refused.header("weft-error"), words);
            assert_eq!(refused.header("weft-error-type"), "server_request_limit");
        }
        let mut client = Client::connect(address, Version::Http2).await;
        let refused = client.send(grpc(), "").await;
        assert_eq!(refused.header("grpc-status"), "14", "{refused:?}");
        assert_eq!(refused.header("grpc-message"), words);
    }
    assert_shed(&server.pod, "server_request_limit", 6);
    // The client's proxy has shed nothing itself.
    assert!(!pod.metrics().contains("weft_overload_shed_total{"));
    server.app.release(2);
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(waits.await.unwrap().status, 200);
    assert_eq!(server.app.counts().all, 2);
}

#[tokio::test]
async fn wait_at_the_server_is_bounded() {
    let pki = Pki::new().unwrap();
    let queue = Some((5, Duration::from_millis(20)));
    let server = Server::start(&pki, request_limit(1, queue)).await;
    let held = get(server.back, Version::Http1, "/");
    server.app.has(1).await;
    let mut client = Client::connect(server.back, Version::Http1).await;
    let late = client.get("/").await;
    assert_eq!(late.status, 503);
    assert_eq!(
        late.header("weft-error"),
        "limits.server: 1 requests are under way, and none ended within 20ms"
    );
    server.app.release(2);
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(client.get("/").await.status, 200);
}

/// Ejects at the first failure of a gateway; nothing is sent again beyond the budget.
fn strict_policy(min_per_second: u16) -> TrafficPolicy {
    TrafficPolicy {
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: NonZeroU32::new(1),
            consecutive_gateway_errors: NonZeroU32::new(1),
            ejection_time: EjectionTime::new(LONG, LONG).unwrap(),
            max_ejection_percent: Percent::new(100).unwrap(),
            panic_threshold: Percent::default(),
        }),
        retry_budget: Some(RetryBudget::per_second(Percent::default(), min_per_second)),
        ..TrafficPolicy::default()
    }
}

#[tokio::test]
async fn full_endpoint_is_passed_over_and_no_outlier() {
    let pki = Pki::new().unwrap();
    let (full, free) = (
        Server::start(&pki, request_limit(1, None)).await,
        Server::start(&pki, request_limit(100, None)).await,
    );
    let held = get(full.back, Version::Http1, "/");
    full.app.has(1).await;
    let pod = Pod::start(&pki, "frontend", Mode::Strict);
    let with_budget = |budget| {
        encode::endpoints(&EndpointSet {
            traffic: Some(Arc::new(strict_policy(budget))),
            ..EndpointSet::new(
                port("reviews"),
                Protocol::Detect,
                vec![full.endpoint(), free.endpoint()],
            )
        })
    };
    // Ten retries in ten seconds.
    pod.tell(vec![with_budget(1), direct(Protocol::Detect)]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    let shed = || {
        let metrics = full.pod.metrics();
        let line = "weft_overload_shed_total{error_type=\"server_request_limit\"} ";
        let count = metrics.lines().find_map(|of| of.strip_prefix(line));
        count.map_or(0, |count| count.parse::<usize>().unwrap())
    };
    // It is asked again, since it is not ejected, and not by each request.
    let (begun, mut asked) = (Instant::now(), 0);
    while shed() < 3 {
        assert_eq!(client.get("/now").await.status, 200);
        asked += 1;
        assert!(begun.elapsed() < PATIENCE, "{} of {asked}", shed());
    }
    assert!(begun.elapsed() >= Duration::from_millis(200) && asked > 10);
    assert_eq!((full.app.counts().all, free.app.counts().all), (1, asked));
    assert!(!pod.metrics().contains("weft_outlier_ejections_total{"));
    // Without a budget the refusal stands.
    pod.tell(vec![with_budget(0)]);
    let refused = loop {
        let seen = client.get("/now").await;
        if seen.status != 200 {
            break seen;
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("weft-error-type"), "server_request_limit");
    full.app.release(1);
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn client_that_goes_away_frees_its_place_at_the_server() {
    for version in BOTH {
        let pki = Pki::new().unwrap();
        let server = Server::start(&pki, request_limit(1, Some((2, LONG)))).await;
        let (_pod, front) = client(&pki, &[&server]);
        for address in [server.back, front] {
            let held = get(address, version, "/");
            server.app.has(1).await;
            let gone = get(address, version, "/");
            waiting(&server.pod, "server", 1).await;
            gone.abort();
            waiting(&server.pod, "server", 0).await;
            // Also with its place.
            let all = server.app.counts().all;
            let next = get(address, version, "/");
            waiting(&server.pod, "server", 1).await;
            held.abort();
            waiting(&server.pod, "server", 0).await;
            server.app.has_after(1, all + 1).await;
            server.app.release(1);
            assert_eq!(next.await.unwrap().status, 200, "{version:?}");
            server.app.has(0).await;
        }
    }
}

#[tokio::test]
async fn request_whose_body_stands_still_loses_its_place() {
    let app = App::start().await;
    let pki = Pki::new().unwrap();
    let pod = Pod::start_with(&pki, "reviews", Mode::Permissive, |options| {
        options.body_idle = Duration::from_millis(50);
    });
    let limit = Some(request_limit(1, Some((1, LONG))));
    pod.tell(vec![limited(&pod, Mode::Permissive, app.address, limit)]);
    let back = pod.inbound(app.address);
    let mut slow = TcpStream::connect(back).await.unwrap();
    let head_and_a_byte = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n1";
    slow.write_all(head_and_a_byte).await.unwrap();
    app.has(1).await;
    let next = get(back, Version::Http1, "/now");
    assert_eq!(next.await.unwrap().status, 200);
    let seen = head(&mut slow).await;
    assert!(seen.starts_with("HTTP/1.1 408"), "{seen}");
    assert!(
        seen.contains("weft-error-type: request_body_timeout"),
        "{seen}"
    );
}

#[tokio::test]
async fn limit_of_a_server_changes_under_load() {
    let pki = Pki::new().unwrap();
    let queue = Some((10, LONG));
    let server = Server::start(&pki, request_limit(3, queue)).await;
    let requests: Vec<_> = (0..6)
        .map(|_| get(server.back, Version::Http1, "/"))
        .collect();
    server.app.has(3).await;
    waiting(&server.pod, "server", 3).await;
    // What is under way counts: two have to end before one is admitted.
    server.change(Some(request_limit(2, queue)));
    server.app.release(1);
    server.app.has(2).await;
    waiting(&server.pod, "server", 3).await;
    server.app.release(1);
    waiting(&server.pod, "server", 2).await;
    server.app.has(2).await;
    // Without a limit nobody waits.
    server.change(None);
    server.app.has(4).await;
    waiting(&server.pod, "server", 0).await;
    server.app.release(4);
    for request in requests {
        assert_eq!(request.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn upgraded_connection_keeps_its_place_at_the_server() {
    let pki = Pki::new().unwrap();
    let server = Server::start(&pki, request_limit(1, None)).await;
    let (_pod, front) = client(&pki, &[&server]);
    super::client::assert_upgrade_keeps_its_place(front, "server_request_limit").await;
}

#[tokio::test]
async fn probes_of_the_node_are_not_limited() {
    let pki = Pki::new().unwrap();
    let server = Server::start(&pki, request_limit(1, None)).await;
    let probe = Probe {
        port: server.app.address.port(),
        asks: ProbeRequest::Get("/now".to_owned()),
    };
    server.pod.tell(vec![encode::workload(&Workload {
        probes: vec![probe],
        limits: [(server.app.address.port(), request_limit(1, None))].into(),
        ..Workload::new(server.pod.identity.clone(), Mode::Permissive)
    })]);
    let held = get(server.back, Version::Http1, "/");
    server.app.has(1).await;
    let (_pod, front) = client(&pki, &[&server]);
    for (address, path, status) in [
        (server.back, "/now", 200),
        (server.back, "/", 503),
        // A client of the mesh is no kubelet.
        (front, "/now", 503),
    ] {
        let seen = Client::connect(address, Version::Http1)
            .await
            .get(path)
            .await;
        assert_eq!(seen.status, status, "{path} {seen:?}");
    }
    server.app.release(1);
    assert_eq!(held.await.unwrap().status, 200);
}
