//! Active health checks: which endpoints get requests, and what is asked of whom.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::authorization::{deny_all, enforce};
use crate::support::gateway::free_port;
use crate::support::*;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use weft_api::{encode, proto};
use weft_ir::{
    CheckTiming, EjectionTime, EndpointSet, HealthCheck, HealthChecks, HttpHealthCheck, Locality,
    Mode, OutlierDetection, Percent, Protocol, Routing, StatusRange, TrafficPolicy, Workload,
};
use weft_testkit::pki::Pki;

/// Never answers a check.
const SILENT: u16 = 1;
/// Answers a check with a body that does not end.
const ENDLESS: u16 = 2;
const SERVING: u16 = 1;
const NOT_SERVING: u16 = 2;
/// Fails the call.
const UNIMPLEMENTED: u16 = 112;

/// An application that answers its requests, and its checks by its health.
#[derive(Clone)]
struct App {
    endpoint: weft_ir::Endpoint,
    /// A status of HTTP, or one of `HealthCheckResponse`.
    health: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
    /// The last check.
    check: Arc<Mutex<Option<http::request::Parts>>>,
}

impl App {
    async fn start(health: u16) -> Self {
        let mut app = Self {
            endpoint: unmeshed(SERVICE.parse().unwrap()),
            health: Arc::new(AtomicU16::new(health)),
            requests: Arc::default(),
            checks: Arc::default(),
            check: Arc::default(),
        };
        let state = app.clone();
        let address = application(move |stream| {
            let state = state.clone();
            async move {
                let service = service_fn(move |request| state.clone().respond(request));
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        app.endpoint = unmeshed(address.await);
        app
    }

    async fn respond(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if !["/healthz", "/grpc.health.v1.Health/Check"].contains(&&*path) {
            self.requests.fetch_add(1, Relaxed);
            return Ok(Response::new(Full::default().boxed()));
        }
        let health = self.health.load(Relaxed);
        *self.check.lock().unwrap() = Some(head);
        self.checks.fetch_add(1, Relaxed);
        if path != "/healthz" {
            let asked = body.collect().await.unwrap().to_bytes();
            assert_eq!(&asked[..], b"\0\0\0\0\x06\x0a\x04shop");
            return Ok(serving_status(health));
        }
        match health {
            SILENT => std::future::pending().await,
            ENDLESS => {
                let piece = || Ok(Frame::data(Bytes::from_static(&[0; 1024])));
                let endless = futures::stream::repeat_with(piece).boxed();
                Ok(Response::new(BodyExt::boxed(StreamBody::new(SyncStream(
                    Mutex::new(endless),
                )))))
            }
            status => {
                let head = Response::builder().status(status).header("location", "/");
                Ok(head.body(Full::default().boxed()).unwrap())
            }
        }
    }

    fn take(&self) -> usize {
        self.requests.swap(0, Relaxed)
    }
}

/// A stream that is shared between threads, as bodies have to be.
struct SyncStream<S>(Mutex<S>);

impl<S: futures::Stream + Unpin> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().unwrap().poll_next_unpin(cx)
    }
}

fn serving_status(health: u16) -> Response<BoxBody<Bytes, Infallible>> {
    let code = HeaderValue::from(health.saturating_sub(100));
    let message = match health {
        UNIMPLEMENTED => Bytes::new(),
        health => Bytes::from(vec![0, 0, 0, 0, 2, 8, u8::try_from(health).unwrap()]),
    };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code)]);
    let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
    let head = Response::builder().header("content-type", "application/grpc");
    head.body(body.boxed()).unwrap()
}

fn get() -> HealthCheck {
    HealthCheck::Http(HttpHealthCheck {
        path: "/healthz".parse().unwrap(),
        host: Some("check.example.com".parse().unwrap()),
        statuses: vec![StatusRange::SUCCESS],
    })
}

fn every_second(check: HealthCheck) -> HealthChecks {
    let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    HealthChecks {
        timing: CheckTiming::new(interval, timeout).unwrap(),
        unhealthy_threshold: NonZeroU32::MIN,
        healthy_threshold: NonZeroU32::MIN,
        check,
    }
}

fn set(
    name: &str,
    protocol: Protocol,
    endpoints: &[weft_ir::Endpoint],
    check: Option<HealthCheck>,
) -> proto::Resource {
    encode::endpoints(&EndpointSet {
        traffic: check.map(|check| {
            Arc::new(TrafficPolicy {
                health_checks: Some(every_second(check)),
                ..TrafficPolicy::default()
            })
        }),
        ..EndpointSet::new(port(name), protocol, endpoints.to_vec())
    })
}

/// A client's pod, and its connection to the Service.
async fn client(pod: &Pod) -> Client {
    let front = pod.outbound(SERVICE.parse().unwrap());
    Client::connect(front, Version::Http1).await
}

fn direct(protocol: Protocol) -> proto::Resource {
    service(protocol, Routing::Direct(vec![to("reviews", 1)]))
}

fn start_pod() -> Pod {
    Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive)
}

/// Sends requests, none of which may fail, until the condition holds.
async fn until(client: &mut Client, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert_eq!(client.get("/").await.status, StatusCode::OK, "{what}");
        assert!(begun.elapsed() < Duration::from_secs(60), "not yet {what}");
    }
}

async fn send(client: &mut Client, requests: usize) {
    for _ in 0..requests {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
}

fn unhealthy(pod: &Pod, count: usize) -> bool {
    let line = format!("weft_health_unhealthy_endpoints {count}");
    pod.metrics().lines().any(|seen| seen == line)
}

fn counted(pod: &Pod, result: &str) -> bool {
    let series = format!(r#"weft_health_checks_total{{result="{result}"}} "#);
    pod.metrics().lines().any(|line| line.starts_with(&series))
}

#[tokio::test]
async fn unhealthy_endpoint_gets_no_request_until_it_is_healthy() {
    for (health, result) in [
        (503, "wrong_answer"),
        (302, "wrong_answer"),
        (SILENT, "timeout"),
    ] {
        let (good, failing) = (App::start(200).await, App::start(health).await);
        let pod = start_pod();
        let endpoints = [good.endpoint.clone(), failing.endpoint.clone()];
        pod.tell(vec![
            set("reviews", Protocol::Http1, &endpoints, Some(get())),
            direct(Protocol::Http1),
        ]);
        let mut client = client(&pod).await;
        until(&mut client, "unhealthy", || unhealthy(&pod, 1)).await;
        assert!(counted(&pod, result), "{}", pod.metrics());
        failing.take();
        send(&mut client, 100).await;
        assert_eq!(failing.take(), 0, "{health}");
        failing.health.store(200, Relaxed);
        let used = || failing.requests.load(Relaxed) > 0;
        until(&mut client, "used again", used).await;
        assert!(unhealthy(&pod, 0) && counted(&pod, "passed"));
        let check = failing.check.lock().unwrap().take().unwrap();
        assert_eq!(check.headers["host"], "check.example.com");
        assert_eq!(check.headers["user-agent"], "weft-health-check");
    }
}

#[tokio::test]
async fn long_body_of_a_check_is_not_read_to_its_end() {
    let app = App::start(ENDLESS).await;
    let pod = start_pod();
    let endpoints = [app.endpoint.clone()];
    pod.tell(vec![
        set("reviews", Protocol::Http1, &endpoints, Some(get())),
        direct(Protocol::Http1),
    ]);
    let mut client = client(&pod).await;
    until(&mut client, "passed", || counted(&pod, "passed")).await;
}

#[tokio::test]
async fn all_endpoints_are_used_if_none_is_healthy() {
    let (first, second) = (App::start(503).await, App::start(503).await);
    let pod = start_pod();
    let endpoints = [first.endpoint.clone(), second.endpoint.clone()];
    pod.tell(vec![
        set("reviews", Protocol::Http1, &endpoints, Some(get())),
        direct(Protocol::Http1),
    ]);
    let mut client = client(&pod).await;
    until(&mut client, "unhealthy", || unhealthy(&pod, 2)).await;
    first.take();
    second.take();
    let both = || first.requests.load(Relaxed) > 5 && second.requests.load(Relaxed) > 5;
    until(&mut client, "both used", both).await;
}

#[tokio::test]
async fn panic_threshold_counts_unhealthy_endpoints() {
    let (good, first) = (App::start(200).await, App::start(503).await);
    let second = App::start(503).await;
    let pod = start_pod();
    let second_long = Duration::from_secs(1);
    let panics = OutlierDetection {
        consecutive_5xx: Some(NonZeroU32::MIN),
        consecutive_gateway_errors: None,
        ejection_time: EjectionTime::new(second_long, second_long).unwrap(),
        max_ejection_percent: Percent::new(50).unwrap(),
        panic_threshold: Percent::new(50).unwrap(),
    };
    let endpoints = [&good, &first, &second].map(|app| app.endpoint.clone());
    let policy = TrafficPolicy {
        outlier_detection: Some(panics),
        health_checks: Some(every_second(get())),
        ..TrafficPolicy::default()
    };
    pod.tell(vec![
        encode::endpoints(&EndpointSet {
            traffic: Some(Arc::new(policy)),
            ..EndpointSet::new(port("reviews"), Protocol::Http1, endpoints.to_vec())
        }),
        direct(Protocol::Http1),
    ]);
    let mut client = client(&pod).await;
    until(&mut client, "unhealthy", || unhealthy(&pod, 2)).await;
    first.take();
    second.take();
    let used = || first.requests.load(Relaxed) > 5 && second.requests.load(Relaxed) > 5;
    until(&mut client, "all used", used).await;
    // Two of three are healthy.
    first.health.store(200, Relaxed);
    until(&mut client, "healthy", || unhealthy(&pod, 1)).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(150) {
        send(&mut client, 1).await;
    }
    second.take();
    send(&mut client, 50).await;
    assert_eq!(second.take(), 0);
}

#[tokio::test]
async fn state_outlives_other_endpoints_and_ends_with_the_policy() {
    let (good, failing) = (App::start(200).await, App::start(503).await);
    let third = App::start(200).await;
    let pod = start_pod();
    let two = [good.endpoint.clone(), failing.endpoint.clone()];
    pod.tell(vec![
        set("reviews", Protocol::Http1, &two, Some(get())),
        direct(Protocol::Http1),
    ]);
    let mut client = client(&pod).await;
    until(&mut client, "unhealthy", || unhealthy(&pod, 1)).await;
    failing.take();
    let three = [third.endpoint.clone(), two[0].clone(), two[1].clone()];
    pod.tell(vec![set("reviews", Protocol::Http1, &three, Some(get()))]);
    assert!(unhealthy(&pod, 1));
    let checked = || third.checks.load(Relaxed) > 0;
    until(&mut client, "checked", checked).await;
    let locality = Locality {
        node: "node-1".into(),
        zone: "zone-a".into(),
    };
    pod.tell(vec![encode::workload(&Workload {
        locality,
        ..Workload::new(pod.identity.clone(), Mode::Permissive)
    })]);
    assert!(unhealthy(&pod, 1), "the proxy has another place");
    send(&mut client, 50).await;
    assert_eq!(failing.take(), 0);
    // Of another check, until that has passed.
    pod.tell(vec![set(
        "reviews",
        Protocol::Http1,
        &three,
        Some(HealthCheck::Tcp),
    )]);
    assert!(unhealthy(&pod, 1), "the policy has another check");
    until(&mut client, "healthy", || unhealthy(&pod, 0)).await;
    pod.tell(vec![set("reviews", Protocol::Http1, &three, Some(get()))]);
    until(&mut client, "unhealthy", || unhealthy(&pod, 1)).await;
    failing.take();
    pod.tell(vec![set("reviews", Protocol::Http1, &three, None)]);
    let used = || failing.requests.load(Relaxed) > 0;
    until(&mut client, "used", used).await;
    assert!(unhealthy(&pod, 0));
}

#[tokio::test]
async fn clusters_are_checked_that_are_used_and_have_a_policy() {
    let (first, second) = (App::start(200).await, App::start(200).await);
    let unused = App::start(200).await;
    let pod = start_pod();
    let endpoints = |app: &App| [app.endpoint.clone()];
    let both = Routing::Direct(vec![to("reviews", 1), to("ratings", 1)]);
    pod.tell(vec![
        set("reviews", Protocol::Http1, &endpoints(&first), Some(get())),
        set("ratings", Protocol::Http1, &endpoints(&second), Some(get())),
        set("unused", Protocol::Http1, &endpoints(&unused), Some(get())),
        service(Protocol::Http1, both),
    ]);
    let mut client = client(&pod).await;
    let checks = |app: &App| app.checks.load(Relaxed);
    let checked = || checks(&first) > 0 && checks(&second) > 0;
    until(&mut client, "checked", checked).await;
    pod.tell(vec![set(
        "ratings",
        Protocol::Http1,
        &endpoints(&second),
        None,
    )]);
    let (seen, more) = (checks(&second), checks(&first) + 2);
    until(&mut client, "checked on", || checks(&first) >= more).await;
    // One may have been under way.
    assert!(checks(&second) <= seen + 1);
    assert_eq!(checks(&unused), 0);
}

#[tokio::test]
async fn health_of_a_grpc_service_is_its_serving_status() {
    for health in [NOT_SERVING, UNIMPLEMENTED] {
        let (good, failing) = (App::start(SERVING).await, App::start(health).await);
        let pod = start_pod();
        let endpoints = [good.endpoint.clone(), failing.endpoint.clone()];
        let check = HealthCheck::Grpc("shop".into());
        pod.tell(vec![
            set("reviews", Protocol::Grpc, &endpoints, Some(check)),
            direct(Protocol::Grpc),
        ]);
        let front = pod.outbound(SERVICE.parse().unwrap());
        let mut client = Client::connect(front, Version::Http2).await;
        until(&mut client, "unhealthy", || unhealthy(&pod, 1)).await;
        failing.take();
        send(&mut client, 50).await;
        assert_eq!(failing.take(), 0, "{health}");
        failing.health.store(SERVING, Relaxed);
        until(&mut client, "healthy", || unhealthy(&pod, 0)).await;
    }
}

#[tokio::test]
async fn check_goes_by_mutual_tls_and_is_decided_on_by_policies() {
    let (good, app) = (App::start(200).await, App::start(200).await);
    let pki = Pki::new().unwrap();
    let server = Pod::start(&pki, "reviews", Mode::Strict);
    let back = server.inbound(app.endpoint.address);
    let pod = Pod::start(&pki, "frontend", Mode::Strict);
    let endpoints = [good.endpoint.clone(), meshed(back, "reviews")];
    pod.tell(vec![
        set("reviews", Protocol::Http1, &endpoints, Some(get())),
        direct(Protocol::Http1),
    ]);
    let mut client = client(&pod).await;
    let checked = || app.checks.load(Relaxed) > 0;
    until(&mut client, "checked", checked).await;
    let check = app.check.lock().unwrap().take().unwrap();
    assert_eq!(check.version, http::Version::HTTP_11);
    assert_eq!(check.headers["host"], "check.example.com");
    enforce(&server, deny_all());
    let begun = Instant::now();
    while !unhealthy(&pod, 1) {
        client.get("/").await;
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    send(&mut client, 50).await;
    assert!(counted(&pod, "wrong_answer"));
}

#[tokio::test]
async fn connection_reaches_the_application_behind_its_proxy() {
    let (good, app) = (App::start(200).await, App::start(200).await);
    let pki = Pki::new().unwrap();
    let server = Pod::start(&pki, "reviews", Mode::Strict);
    let (back, closed) = (server.inbound(app.endpoint.address), free_port());
    // Its proxy accepts, and nobody listens behind it.
    let dead = server.inbound(([127, 0, 0, 1], closed).into());
    let pod = Pod::start(&pki, "frontend", Mode::Strict);
    let endpoints = [
        good.endpoint.clone(),
        meshed(back, "reviews"),
        meshed(dead, "reviews"),
    ];
    pod.tell(vec![
        set(
            "reviews",
            Protocol::Http1,
            &endpoints,
            Some(HealthCheck::Tcp),
        ),
        direct(Protocol::Http1),
    ]);
    let mut client = client(&pod).await;
    until(&mut client, "unhealthy", || unhealthy(&pod, 1)).await;
    assert!(counted(&pod, "unreachable"));
    until(&mut client, "passed", || counted(&pod, "passed")).await;
    app.take();
    let used = || app.requests.load(Relaxed) > 0;
    until(&mut client, "used", used).await;
    assert!(unhealthy(&pod, 1));
}
