//! Timeouts by the TrafficPolicy of a Service port: of requests whose rules say nothing of them,
//! and of connecting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::*;
use http::Request;
use weft_api::{encode, proto};
use weft_ir::{
    ConnectTimeout, Endpoint, EndpointSet, PolicyTimeouts, Protocol, Retries, Retry, RouteKind,
    Routing, TimeLimit, Timeouts, TrafficPolicy,
};
use weft_testkit::upstream::{Speaks, Upstream};

const SHORT: Duration = Duration::from_millis(100);

fn policy(request: TimeLimit, backend: TimeLimit) -> TrafficPolicy {
    TrafficPolicy {
        timeouts: Some(PolicyTimeouts {
            requests: Timeouts { request, backend },
            connect: None,
        }),
        ..TrafficPolicy::default()
    }
}

fn set(protocol: Protocol, endpoints: Vec<Endpoint>, policy: TrafficPolicy) -> proto::Resource {
    encode::endpoints(&EndpointSet {
        traffic: Some(Arc::new(policy)),
        ..EndpointSet::new(port("reviews"), protocol, endpoints)
    })
}

async fn pair(speaks: Speaks, protocol: Protocol, policy: TrafficPolicy) -> (Proxies, Upstream) {
    let app = Upstream::start("app", speaks).await.unwrap();
    let proxies = Proxies::before(app.address(), protocol);
    let endpoint = meshed(proxies.back, "reviews");
    proxies
        .client
        .tell(vec![set(protocol, vec![endpoint], policy)]);
    (proxies, app)
}

async fn slow(client: &mut Client, millis: u32) -> TestResponse {
    let slow = Request::get("/").header("x-delay", millis.to_string());
    client.send(slow, "").await
}

#[tokio::test]
async fn request_ends_with_the_timeout_of_the_policy_unless_its_rule_has_one() {
    let of_policy = policy(SHORT.into(), TimeLimit::Unsaid);
    let (proxies, _app) = pair(Speaks::Http1, Protocol::Http1, of_policy).await;
    let mut client = Client::connect(proxies.front, Version::Http1).await;
    let seen = slow(&mut client, 5_000).await;
    assert_eq!(seen.status, 504);
    assert_eq!(seen.header("weft-error-type"), "request_timeout");
    assert_eq!(slow(&mut client, 0).await.status, 200);
    let mut own = rule(0, vec![to("reviews", 1)]);
    for (request, backend, delay, status) in [
        (TimeLimit::Unsaid, TimeLimit::Unlimited, 5_000, 504),
        (TimeLimit::Unlimited, TimeLimit::Unsaid, 300, 200),
        (Duration::from_secs(9).into(), SHORT.into(), 5_000, 504),
        (Duration::from_secs(9).into(), TimeLimit::Unsaid, 300, 200),
    ] {
        own.timeouts = Timeouts { request, backend };
        let routing = Routing::Http(vec![Arc::new(own.clone())]);
        proxies.client.tell(vec![service(Protocol::Http1, routing)]);
        let seen = slow(&mut client, delay).await.status;
        assert_eq!(seen, status, "{:?}", own.timeouts);
    }
}

#[tokio::test]
async fn call_by_a_grpc_route_ends_with_the_timeout_of_the_policy() {
    let of_policy = policy(SHORT.into(), TimeLimit::Unsaid);
    let (proxies, _app) = pair(Speaks::Http2, Protocol::Grpc, of_policy).await;
    let mut own = rule(0, vec![to("reviews", 1)]);
    own.route.kind = RouteKind::Grpc;
    let routing = Routing::Grpc(vec![Arc::new(own)]);
    proxies.client.tell(vec![service(Protocol::Grpc, routing)]);
    let mut client = Client::connect(proxies.front, Version::Http2).await;
    let call = Request::post("/t.S/Get").header("content-type", "application/grpc");
    let seen = client.send(call.header("x-delay", "5000"), "").await;
    assert_eq!((seen.status, seen.header("grpc-status")), (200, "4"));
}

#[tokio::test]
async fn attempt_that_takes_too_long_is_retried_elsewhere() {
    let app = Upstream::start("app", Speaks::Http1).await.unwrap();
    let hangs = Upstream::start("hangs", Speaks::Silent).await.unwrap();
    let (app, hangs) = (unmeshed(app.address()), hangs);
    let proxies = Proxies::before(app.address, Protocol::Http1);
    let retrying = TrafficPolicy {
        retries: Some(Retries {
            retry: Retry {
                codes: Vec::new(),
                attempts: 1,
                backoff: Retry::LEAST_BACKOFF,
            },
            grpc_statuses: Default::default(),
        }),
        ..policy(TimeLimit::Unsaid, SHORT.into())
    };
    let endpoints = vec![unmeshed(hangs.address()), app];
    let resource = set(Protocol::Http1, endpoints, retrying);
    proxies.client.tell(vec![resource]);
    let mut client = Client::connect(proxies.front, Version::Http1).await;
    while hangs.connections() == 0 {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn endpoint_that_cannot_be_connected_to_in_time_is_left_for_another() {
    let hangs = Upstream::start("hangs", Speaks::Silent).await.unwrap();
    let connecting = TrafficPolicy {
        timeouts: Some(PolicyTimeouts {
            connect: ConnectTimeout::new(SHORT),
            ..PolicyTimeouts::default()
        }),
        ..TrafficPolicy::default()
    };
    for version in BOTH {
        let (speaks, protocol) = match version {
            Version::Http1 => (Speaks::Http1, Protocol::Http1),
            Version::Http2 => (Speaks::Http2, Protocol::Http2),
        };
        let (proxies, _app) = pair(speaks, protocol, connecting.clone()).await;
        let silent = meshed(hangs.address(), "reviews");
        let good = meshed(proxies.back, "reviews");
        let before = hangs.connections();
        proxies
            .client
            .tell(vec![set(protocol, vec![silent, good], connecting.clone())]);
        let mut client = Client::connect(proxies.front, version).await;
        while hangs.connections() == before {
            let begun = Instant::now();
            assert_eq!(client.get("/").await.status, 200);
            // Without the policy it takes 5 s.
            assert!(begun.elapsed() < Duration::from_secs(3), "{version:?}");
        }
        // If it is the only one, the failure names the time.
        let silent = meshed(hangs.address(), "reviews");
        let only = set(protocol, vec![silent], connecting.clone());
        proxies.client.tell(vec![only]);
        let seen = client.get("/").await;
        assert_eq!(seen.status, 503, "{version:?}");
        let words = seen.header("weft-error");
        assert!(words.contains("nothing came back within 100ms"), "{words}");
    }
}
