//! Faults that rules inject: who gets them, and what becomes of requests that wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::*;
use http::{HeaderName, HeaderValue, Request};
use weft_ir::{
    FaultAbort, FaultDelay, FaultHeader, FaultInjection, FaultStatus, Filter, GrpcError,
    HeaderEdit, HttpError, Mode, Percent, Protocol, RouteKind, Routing, Rule,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

fn all() -> Percent {
    Percent::new(100).unwrap()
}

fn abort(status: FaultStatus) -> Option<FaultAbort> {
    let share = all();
    Some(FaultAbort { status, share })
}

fn unavailable() -> Option<FaultAbort> {
    abort(FaultStatus::Http(HttpError::new(503).unwrap()))
}

fn delay(time: Duration) -> Option<FaultDelay> {
    FaultDelay::new(time, all())
}

fn fault(delay: Option<FaultDelay>, abort: Option<FaultAbort>) -> FaultInjection {
    FaultInjection {
        filter: "shop/chaos".into(),
        header: None,
        delay,
        abort,
    }
}

fn filter(of: FaultInjection) -> Filter {
    Filter::Fault(Arc::new(of))
}

/// A rule of all requests with these filters.
fn with(filters: Vec<Filter>) -> Rule {
    Rule {
        filters,
        ..rule(0, vec![to("reviews", 1)])
    }
}

/// A client whose requests go to the application by the rule.
async fn routed(version: Version, rule: Rule) -> (Pod, Client, Upstream) {
    let speaks = match version {
        Version::Http1 => Speaks::Http1,
        Version::Http2 => Speaks::Http2,
    };
    let app = Upstream::start("v1", speaks).await.unwrap();
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    let grpc = rule.route.kind == RouteKind::Grpc;
    let rules = vec![Arc::new(rule)];
    let (protocol, routing) = match grpc {
        true => (Protocol::Grpc, Routing::Grpc(rules)),
        false => (Protocol::Detect, Routing::Http(rules)),
    };
    pod.tell(vec![
        endpoints("reviews", protocol, &[unmeshed(app.address())]),
        service(protocol, routing),
    ]);
    let client = Client::connect(pod.outbound(SERVICE.parse().unwrap()), version).await;
    (pod, client, app)
}

fn has_line(pod: &Pod, line: &str) -> bool {
    pod.metrics().lines().any(|seen| seen == line)
}

fn injected(fault: &str, count: usize) -> String {
    format!(r#"weft_injected_faults_total{{direction="outbound",fault="{fault}"}} {count}"#)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        tokio::task::yield_now().await;
        assert!(begun.elapsed() < Duration::from_secs(60), "not yet {what}");
    }
}

#[tokio::test]
async fn requests_with_the_header_are_answered_in_place_of_the_application() {
    for version in BOTH {
        let of_header = FaultInjection {
            header: Some(FaultHeader {
                name: HeaderName::from_static("x-chaos"),
                value: Some("yes".into()),
            }),
            ..fault(None, unavailable())
        };
        let (pod, mut client, app) = routed(version, with(vec![filter(of_header)])).await;
        assert_eq!(client.get("/").await.status, 200, "{version:?}");
        let other = Request::get("/").header("x-chaos", "no");
        assert_eq!(client.send(other, "").await.status, 200, "{version:?}");
        assert_eq!(app.requests(), 2);
        let asked = Request::post("/").header("x-chaos", "yes");
        let answer = client.send(asked, "a body").await;
        assert_eq!(answer.status, 503, "{version:?}");
        assert_eq!(answer.header("weft-error-type"), "fault");
        let words = "a fault that the FaultFilter shop/chaos injects";
        assert_eq!(answer.header("weft-error"), words);
        assert_eq!(app.requests(), 2, "{version:?}");
        assert!(has_line(&pod, &injected("abort", 1)), "{}", pod.metrics());
        assert_eq!(client.get("/").await.status, 200, "{version:?}");
    }
}

#[tokio::test]
async fn call_of_grpc_gets_trailers_only_and_a_status_of_its_own() {
    let (grpc, http) = (GrpcError::new(8).unwrap(), HttpError::new(404).unwrap());
    for (status, code) in [
        (FaultStatus::Grpc(grpc), "8"),
        (FaultStatus::Http(http), "12"),
    ] {
        let mut rule = with(vec![filter(fault(None, abort(status)))]);
        rule.route.kind = RouteKind::Grpc;
        let (_pod, mut client, app) = routed(Version::Http2, rule).await;
        let call = Request::post("/shop.Reviews/Get").header("content-type", "application/grpc");
        let answer = client.send(call, "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("grpc-status"), code);
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert!(answer.trailers.is_empty() && answer.body.is_empty());
        assert_eq!(app.requests(), 0);
    }
}

#[tokio::test]
async fn delayed_request_is_sent_after_its_time() {
    for version in BOTH {
        let time = Duration::from_millis(200);
        let rule = with(vec![filter(fault(delay(time), None))]);
        let (pod, mut client, app) = routed(version, rule).await;
        let begun = Instant::now();
        assert_eq!(client.get("/").await.status, 200, "{version:?}");
        assert!(begun.elapsed() >= time, "{:?}", begun.elapsed());
        assert_eq!(app.requests(), 1);
        assert!(has_line(&pod, &injected("delay", 1)), "{}", pod.metrics());
    }
}

#[tokio::test]
async fn delay_comes_before_the_answer_and_ends_with_the_timeout_of_the_rule() {
    let time = Duration::from_millis(200);
    let rule = with(vec![filter(fault(delay(time), unavailable()))]);
    let (_pod, mut client, app) = routed(Version::Http1, rule.clone()).await;
    let begun = Instant::now();
    assert_eq!(client.get("/").await.header("weft-error-type"), "fault");
    assert!(begun.elapsed() >= time, "{:?}", begun.elapsed());
    assert_eq!(app.requests(), 0);

    let mut rule = with(vec![filter(fault(delay(FaultDelay::MOST), None))]);
    rule.timeouts.request = weft_ir::TimeLimit::Within(time);
    let (_pod, mut client, app) = routed(Version::Http1, rule).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("weft-error-type"), "request_timeout");
    assert!(begun.elapsed() < FaultDelay::MOST / 2);
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn delay_ends_with_the_client() {
    for version in BOTH {
        let rule = with(vec![filter(fault(delay(FaultDelay::MOST), None))]);
        let (pod, mut client, app) = routed(version, rule).await;
        let active = |count: usize| {
            let line = format!(r#"weft_requests_active{{direction="outbound"}} {count}"#);
            has_line(&pod, &line)
        };
        let leaving = tokio::spawn(async move { client.get("/").await });
        until("delayed", || has_line(&pod, &injected("delay", 1))).await;
        assert!(active(1), "{}", pod.metrics());
        leaving.abort();
        until("over", || active(0)).await;
        assert_eq!(app.requests(), 0, "{version:?}");
    }
}

#[tokio::test]
async fn faults_of_rules_and_backends_stand_in_the_order_of_filters() {
    let marked = Filter::RequestHeaders(HeaderEdit {
        set: vec![(
            HeaderName::from_static("x-chaos"),
            HeaderValue::from_static("yes"),
        )],
        ..HeaderEdit::default()
    });
    let of_marked = filter(FaultInjection {
        header: Some(FaultHeader {
            name: HeaderName::from_static("x-chaos"),
            value: None,
        }),
        ..fault(None, unavailable())
    });
    let of_backend = |filters| {
        let mut rule = with(vec![marked.clone()]);
        rule.backends[0].filters = filters;
        rule
    };
    for (rule, status) in [
        (with(vec![marked.clone(), of_marked.clone()]), 503),
        (with(vec![of_marked.clone(), marked.clone()]), 200),
        (of_backend(vec![of_marked.clone()]), 503),
        (of_backend(vec![]), 200),
    ] {
        let (_pod, mut client, _app) = routed(Version::Http1, rule).await;
        assert_eq!(client.get("/").await.status, status);
    }
}
