//! TrafficPolicies: which endpoints get requests while some fail, how often a request is sent, and
//! what clients notice of it.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use weft_api::{encode, proto};
use weft_ir::{
    EjectionTime, EndpointSet, Mode, OutlierDetection, Percent, Protocol, Retry, RetryBudget,
    Routing, TrafficPolicy,
};
use weft_testkit::pki::Pki;

/// Ends the connection without a response.
const RESET: u16 = 0;
/// Never responds.
const SILENT: u16 = 1;

/// An application that answers every request in the same way.
struct App {
    endpoint: weft_ir::Endpoint,
    answer: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
}

impl App {
    /// With a gRPC status, which ends each call, or a status of HTTP.
    async fn start(answer: u16) -> Self {
        let answer = Arc::new(AtomicU16::new(answer));
        let requests = Arc::<AtomicUsize>::default();
        let state = (Arc::clone(&answer), Arc::clone(&requests));
        let address = application(move |stream| {
            let (answer, requests) = state.clone();
            async move {
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Relaxed);
                    respond(request, answer.load(Relaxed))
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self {
            endpoint: unmeshed(address.await),
            answer,
            requests,
        }
    }

    fn take(&self) -> usize {
        self.requests.swap(0, Relaxed)
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: u16,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, std::io::Error> {
    if request.headers().contains_key("content-type") {
        let status = HeaderValue::from(answer);
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)]);
        let body = Full::default().with_trailers(async { Some(Ok(trailers)) });
        let head = Response::builder().header("content-type", "application/grpc");
        return Ok(head.body(body.boxed()).unwrap());
    }
    match answer {
        RESET => Err(std::io::Error::other("reset")),
        SILENT => std::future::pending().await,
        status => {
            let head = Response::builder().status(status);
            Ok(head.body(Full::default().boxed()).unwrap())
        }
    }
}

fn count(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

/// Ejects after five failures of either kind.
fn detection() -> OutlierDetection {
    let (base, max) = (Duration::from_secs(30), Duration::from_secs(300));
    OutlierDetection {
        consecutive_5xx: count(5),
        consecutive_gateway_errors: None,
        ejection_time: EjectionTime::new(base, max).unwrap(),
        max_ejection_percent: Percent::new(50).unwrap(),
        panic_threshold: Percent::default(),
    }
}

fn set(
    apps: &[&App],
    protocol: Protocol,
    outlier_detection: Option<OutlierDetection>,
) -> proto::Resource {
    let endpoints = apps.iter().map(|app| app.endpoint.clone()).collect();
    encode::endpoints(&EndpointSet {
        traffic: outlier_detection.map(|of| {
            Arc::new(TrafficPolicy {
                outlier_detection: Some(of),
                ..TrafficPolicy::default()
            })
        }),
        ..EndpointSet::new(port("reviews"), protocol, endpoints)
    })
}

fn client_pod() -> Pod {
    Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive)
}

fn direct(protocol: Protocol) -> proto::Resource {
    service(protocol, Routing::Direct(vec![to("reviews", 1)]))
}

/// Sends requests one after another; returns how many failed.
async fn failures(client: &mut Client, requests: usize) -> usize {
    let mut failed = 0;
    for _ in 0..requests {
        failed += usize::from(client.get("/").await.status >= 500);
    }
    failed
}

/// Sends requests until an application got this many: how soon depends on its measured latency.
/// Returns how many failed.
async fn until_taken(client: &mut Client, app: &App, count: usize) -> usize {
    let (begun, mut failed) = (Instant::now(), 0);
    while app.requests.load(Relaxed) < count {
        failed += failures(client, 1).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "it gets none");
    }
    failed
}

fn ejections(reason: &str, result: &str, count: usize) -> String {
    format!(r#"weft_outlier_ejections_total{{reason="{reason}",result="{result}"}} {count}"#)
}

fn assert_counted(pod: &Pod, line: &str) {
    let metrics = pod.metrics();
    assert!(
        metrics.lines().any(|seen| seen == line),
        "{line}\n{metrics}"
    );
}

#[tokio::test]
async fn failing_endpoint_is_ejected_after_its_failures_in_a_row() {
    for answer in [500, 503, RESET] {
        let (first, second) = (App::start(200).await, App::start(200).await);
        let failing = App::start(answer).await;
        let pod = client_pod();
        let apps = [&first, &second, &failing];
        pod.tell(vec![
            set(&apps, Protocol::Http1, Some(detection())),
            direct(Protocol::Http1),
        ]);
        let front = pod.outbound(SERVICE.parse().unwrap());
        let mut client = Client::connect(front, Version::Http1).await;
        // The client sees each failure; then there is none.
        assert_eq!(until_taken(&mut client, &failing, 5).await, 5, "{answer}");
        assert_eq!(failures(&mut client, 200).await, 0, "{answer}");
        assert_eq!(failing.take(), 5, "{answer}");
        assert_counted(&pod, &ejections("consecutive_5xx", "ejected", 1));
        // Without the policy it is used again.
        pod.tell(vec![set(&apps, Protocol::Http1, None)]);
        assert_eq!(until_taken(&mut client, &failing, 7).await, 7, "{answer}");
    }
}

#[tokio::test]
async fn application_error_is_no_gateway_error() {
    let (good, failing) = (App::start(200).await, App::start(500).await);
    let pod = client_pod();
    let only_gateway_errors = OutlierDetection {
        consecutive_5xx: None,
        consecutive_gateway_errors: count(3),
        ..detection()
    };
    let policy = Some(only_gateway_errors);
    pod.tell(vec![
        set(&[&good, &failing], Protocol::Http1, policy),
        direct(Protocol::Http1),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    assert_eq!(until_taken(&mut client, &failing, 10).await, 10);
    assert!(!pod.metrics().contains("weft_outlier_ejections_total{"));
    failing.take();
    failing.answer.store(503, Relaxed);
    assert_eq!(until_taken(&mut client, &failing, 3).await, 3);
    assert_eq!(failures(&mut client, 100).await, 0);
    assert_counted(&pod, &ejections("consecutive_gateway_errors", "ejected", 1));
}

#[tokio::test]
async fn retries_hide_the_failures_that_eject_an_endpoint() {
    let (first, second) = (App::start(200).await, App::start(200).await);
    let failing = App::start(503).await;
    let pod = client_pod();
    let mut rule = rule(0, vec![to("reviews", 1)]);
    rule.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 2,
        backoff: Duration::ZERO,
    });
    let apps = [&first, &second, &failing];
    pod.tell(vec![
        set(&apps, Protocol::Http1, Some(detection())),
        service(Protocol::Http1, Routing::Http(vec![Arc::new(rule)])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    assert_eq!(until_taken(&mut client, &failing, 5).await, 0);
    assert_eq!(failures(&mut client, 100).await, 0);
    assert_eq!(failing.take(), 5);
}

#[tokio::test]
async fn endpoint_that_does_not_answer_in_time_is_ejected() {
    let (good, silent) = (App::start(200).await, App::start(SILENT).await);
    let pod = client_pod();
    let mut rule = rule(0, vec![to("reviews", 1)]);
    rule.timeouts.backend = Duration::from_millis(200).into();
    let three = OutlierDetection {
        consecutive_5xx: count(3),
        ..detection()
    };
    pod.tell(vec![
        set(&[&good, &silent], Protocol::Http1, Some(three)),
        service(Protocol::Http1, Routing::Http(vec![Arc::new(rule)])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    until_taken(&mut client, &silent, 3).await;
    failures(&mut client, 100).await;
    assert_eq!(silent.take(), 3);
    assert_counted(&pod, &ejections("consecutive_5xx", "ejected", 1));
}

#[tokio::test]
async fn all_endpoints_are_used_when_too_few_are_healthy() {
    let (first, second) = (App::start(503).await, App::start(503).await);
    let good = App::start(200).await;
    let pod = client_pod();
    let panics = OutlierDetection {
        consecutive_5xx: count(1),
        max_ejection_percent: Percent::new(100).unwrap(),
        panic_threshold: Percent::new(50).unwrap(),
        ..detection()
    };
    pod.tell(vec![
        set(&[&first, &second, &good], Protocol::Http1, Some(panics)),
        direct(Protocol::Http1),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    // One of three is healthy: the others are ejected after a request each, and used on.
    let (begun, mut failed) = (Instant::now(), 0);
    while failed < 20 {
        failed += failures(&mut client, 1).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{failed}");
    }
    // Each request was sent once.
    assert_eq!(first.take() + second.take(), failed);
    let metrics = pod.metrics();
    assert!(
        !metrics.contains("weft_outlier_panics_total 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn grpc_calls_count_by_their_status() {
    // UNAVAILABLE in trailers, after a head with status 200.
    let (good, failing) = (App::start(0).await, App::start(14).await);
    let pod = client_pod();
    let gateway_errors = OutlierDetection {
        consecutive_gateway_errors: count(3),
        ..detection()
    };
    let apps = [&good, &failing];
    pod.tell(vec![
        set(&apps, Protocol::Grpc, Some(gateway_errors)),
        direct(Protocol::Grpc),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http2).await;
    let begun = Instant::now();
    while failing.requests.load(Relaxed) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it gets none");
        assert_eq!(call(&mut client).await, 200);
    }
    // NOT_FOUND is an answer.
    good.answer.store(5, Relaxed);
    for _ in 0..50 {
        assert_eq!(call(&mut client).await, 200);
    }
    assert_eq!(failing.take(), 3);
    assert_counted(&pod, &ejections("consecutive_gateway_errors", "ejected", 1));
}

async fn call(client: &mut Client) -> u16 {
    let call = Request::post("/t.S/Get").header("content-type", "application/grpc");
    client.send(call, "").await.status
}

#[tokio::test]
async fn endpoint_is_used_again_after_its_time_and_endpoints_that_come_change_nothing() {
    let (good, failing) = (App::start(200).await, App::start(503).await);
    let third = App::start(200).await;
    let pod = client_pod();
    let (base, max) = (Duration::from_secs(2), Duration::from_secs(60));
    let short = OutlierDetection {
        ejection_time: EjectionTime::new(base, max).unwrap(),
        ..detection()
    };
    let policy = || Some(short.clone());
    pod.tell(vec![
        set(&[&good, &failing], Protocol::Http1, policy()),
        direct(Protocol::Http1),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    until_taken(&mut client, &failing, 5).await;
    let ejected = Instant::now();
    failing.answer.store(200, Relaxed);
    failing.take();
    let all = [&third, &good, &failing];
    pod.tell(vec![set(&all, Protocol::Http1, policy())]);
    assert_eq!(failures(&mut client, 50).await, 0);
    // Unless the machine was so slow that its time is over.
    if ejected.elapsed() < base {
        assert_eq!(failing.take(), 0, "it is still ejected");
    }
    assert_eq!(until_taken(&mut client, &failing, 10).await, 0);
}

#[tokio::test]
async fn retries_of_failing_endpoints_stay_within_the_budget_of_the_policy() {
    let (first, second) = (App::start(503).await, App::start(503).await);
    let pod = client_pod();
    let mut rule = rule(0, vec![to("reviews", 1)]);
    rule.retry = Some(Retry {
        codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 1,
        backoff: Duration::ZERO,
    });
    let policy = TrafficPolicy {
        retry_budget: Some(RetryBudget::per_second(Percent::new(20).unwrap(), 0)),
        ..TrafficPolicy::default()
    };
    let endpoints = vec![first.endpoint.clone(), second.endpoint.clone()];
    pod.tell(vec![
        encode::endpoints(&EndpointSet {
            traffic: Some(Arc::new(policy)),
            ..EndpointSet::new(port("reviews"), Protocol::Http1, endpoints)
        }),
        service(Protocol::Http1, Routing::Http(vec![Arc::new(rule)])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http1).await;
    assert_eq!(failures(&mut client, 100).await, 100);
    let received = first.take() + second.take();
    assert!((110..=120).contains(&received), "{received}");
}
