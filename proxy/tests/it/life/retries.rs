//! Limits on retries: of one request, and of all requests of a cluster.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use tokio::task::JoinSet;
use weft_ir::{Mode, Protocol, Retry, Routing};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

use super::soon;
use crate::support::*;

/// A client pod whose requests are retried on status 500, with the maximum of attempts.
async fn retrying_client(backoff: Duration) -> (Pod, SocketAddr, Upstream) {
    let app = Upstream::start("app", Speaks::Http1).await.unwrap();
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.retry = Some(Retry {
        codes: vec![StatusCode::INTERNAL_SERVER_ERROR],
        attempts: u32::MAX,
        backoff,
    });
    pod.tell(vec![
        endpoints("v1", Protocol::Detect, &[unmeshed(app.address())]),
        service(Protocol::Http1, Routing::Http(vec![rule.into()])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    (pod, front, app)
}

async fn send_failing(front: SocketAddr) -> u16 {
    let mut client = Client::connect(front, Version::Http1).await;
    let request = Request::get("/").header("x-answer", "500");
    client.send(request, "").await.status
}

#[tokio::test]
async fn retries_of_one_request_are_limited_and_spaced() {
    let (_pod, front, app) = retrying_client(Duration::ZERO).await;
    let begun = Instant::now();
    assert_eq!(send_failing(front).await, 500);
    assert_eq!(app.requests(), 11);
    // 25 ms, doubled with each retry up to a factor of ten.
    assert!(begun.elapsed() >= Duration::from_millis(25 * (1 + 2 + 4 + 8 + 6 * 10)));
}

#[tokio::test]
async fn retries_of_cluster_stay_within_budget() {
    const REQUESTS: usize = 300;
    let (pod, front, app) = retrying_client(Duration::ZERO).await;
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..REQUESTS {
        clients.spawn(send_failing(front));
    }
    for status in clients.join_all().await {
        assert_eq!(status, 500, "the last response is forwarded");
    }
    let retried = app.requests() - REQUESTS;
    // The budget's period is 10 s, and a slow machine may take several.
    let periods = 1 + begun.elapsed().as_secs() as usize / 10;
    let most = periods * (100 + REQUESTS / 5);
    assert!((100..=most).contains(&retried), "{retried}");
    let metrics = pod.metrics();
    let retries = |result: &str| {
        let label = format!(r#"result="{result}"}} "#);
        let mut lines = metrics.lines();
        let found = lines
            .find(|line| line.starts_with("weft_request_retries_total{") && line.contains(&label));
        let count = found.and_then(|line| line.rsplit_once(' '));
        count.map_or(0, |(_, count)| count.parse().unwrap())
    };
    assert_eq!(retries("failed"), retried, "{metrics}");
    assert!(retries("budget_exhausted") > 0, "{metrics}");
    assert!(!metrics.contains("weft_retry_budget_exhausted_total 0"));
}

#[tokio::test]
async fn route_removal_and_drain_stop_retries() {
    let gone = |pod: &Pod| {
        let direct = Routing::Direct(vec![to("v1", 1)]);
        pod.tell(vec![service(Protocol::Http1, direct)]);
    };
    let off = |pod: &Pod| {
        let mut rule = rule(0, vec![to("v1", 1)]);
        rule.retry = Some(Retry::off());
        let routing = Routing::Http(vec![rule.into()]);
        pod.tell(vec![service(Protocol::Http1, routing)]);
    };
    let drain = |pod: &Pod| pod.shutdown.token().cancel();
    for end in [&gone as &dyn Fn(&Pod), &off, &drain] {
        let (pod, front, app) = retrying_client(Duration::from_millis(300)).await;
        let client = tokio::spawn(send_failing(front));
        soon("the first attempt", || app.requests() == 1).await;
        end(&pod);
        let begun = Instant::now();
        assert_eq!(client.await.unwrap(), 500);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(app.requests(), 1);
    }
}
