//! Gateway rules whose backend is a Service with routes of its own, which apply as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::gateway::{GatewayPod, at, composed_port, free_port, host, listener};
use crate::support::*;
use http::{HeaderName, HeaderValue, Request};
use weft_ir::{
    Filter, HeaderEdit, HeaderMatch, PathEdit, PathMatch, Protocol, RequestMatch, Rewrite, Rule,
    ServiceRules, Serving, ValueMatch,
};
use weft_testkit::upstream::{Speaks, Upstream};

const APPS: [&str; 4] = ["a", "a1", "a2", "b"];

/// A gateway in front of the applications of `APPS`, each behind a Service of its own.
struct Shop {
    gateway: GatewayPod,
    _apps: Vec<Upstream>,
    client: Client,
}

impl Shop {
    async fn start(version: Version, rules: Vec<Rule>, services: Vec<ServiceRules>) -> Self {
        let (speaks, protocol) = match version {
            Version::Http1 => (Speaks::Http1, Protocol::Http1),
            Version::Http2 => (Speaks::Http2, Protocol::Http2),
        };
        let gateway = GatewayPod::start();
        let (mut apps, mut resources) = (Vec::new(), Vec::new());
        for name in APPS {
            let app = Upstream::start(name, speaks).await.unwrap();
            resources.push(endpoints(name, protocol, &[unmeshed(app.address())]));
            apps.push(app);
        }
        let number = free_port();
        let serving = Serving::Http(vec![listener("web", "", vec![host("", rules)])]);
        resources.push(composed_port(number, serving, services));
        gateway.tell(resources);
        Self {
            gateway,
            _apps: apps,
            client: Client::connect(at(number), version).await,
        }
    }

    /// Returns how many per thousand requests each application serves.
    async fn shares(&mut self) -> BTreeMap<String, u32> {
        const REQUESTS: u32 = 4000;
        let mut taken = BTreeMap::new();
        for _ in 0..REQUESTS {
            let seen = self.client.get("/").await;
            let name = seen.header("x-upstream").to_owned();
            *taken.entry(name).or_default() += 1;
        }
        taken
            .into_iter()
            .map(|(name, of): (_, u32)| (name, of * 1000 / REQUESTS))
            .collect()
    }
}

fn of(name: &str, rules: Vec<Rule>) -> ServiceRules {
    let mut rules = rules;
    for rule in &mut rules {
        rule.route.name = format!("own-of-{name}").as_str().into();
    }
    let id = port(name);
    ServiceRules {
        id,
        rules: rules.into_iter().map(Arc::new).collect(),
    }
}

fn edit(set: &'static str, add: &'static str) -> HeaderEdit {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    HeaderEdit {
        set: vec![(name("x-set"), value(set))],
        add: vec![(name("x-add"), value(add))],
        remove: Vec::new(),
    }
}

/// Metric labels of the gateway's rule, and of the rule of Service `a`.
const FRONT: [&str; 2] = [
    r#"parent_kind="Gateway",parent_namespace="shop",parent_name="gw",parent_port="#,
    r#"route_kind="HTTPRoute",route_namespace="shop",route_name="reviews",rule="0""#,
];
const OWN: [&str; 2] = [
    r#"parent_kind="Service",parent_namespace="shop",parent_name="a",parent_port="80""#,
    r#"route_kind="HTTPRoute",route_namespace="shop",route_name="own-of-a",rule="0""#,
];

/// Returns true if a series of the direction `gateway` has these labels.
fn counts(metrics: &str, [parent, route]: [&str; 2], backend: &str, code: &str) -> bool {
    let labels = [
        r#"weft_requests_total{direction="gateway""#,
        parent,
        route,
        &format!(r#"backend_namespace="shop",backend_name="{backend}",backend_port="80""#),
        &format!(r#"code="{code}""#),
    ];
    let mut lines = metrics.lines();
    lines.any(|line| labels.iter().all(|label| line.contains(label)))
}

/// Makes the random choice of backends reproducible.
fn seed() {
    fastrand::seed(11);
}

#[tokio::test]
async fn gateway_and_service_weights_multiply() {
    seed();
    let split = || vec![rule(0, vec![to("a", 1), to("b", 1)])];
    let own = of("a", vec![rule(0, vec![to("a1", 80), to("a2", 20)])]);
    let mut shop = Shop::start(Version::Http2, split(), vec![own]).await;
    let shares = shop.shares().await;
    assert_eq!(shares.len(), 3, "{shares:?}");
    for (name, share) in [("a1", 400), ("a2", 100), ("b", 500)] {
        let found = shares[name];
        assert!(found.abs_diff(share) <= 20, "{name} {found}: {shares:?}");
    }
    let metrics = shop.gateway.metrics();
    assert!(counts(&metrics, OWN, "a1", "200"), "{metrics}");
    assert!(counts(&metrics, FRONT, "b", "200"), "{metrics}");
}

#[tokio::test]
async fn service_without_composed_rules_gets_gateway_requests_directly() {
    seed();
    let split = vec![rule(0, vec![to("a", 1), to("b", 1)])];
    let other = of("a2", vec![rule(0, vec![to("a1", 1)])]);
    let mut shop = Shop::start(Version::Http2, split, vec![other]).await;
    let shares = shop.shares().await;
    assert_eq!(shares.len(), 2, "{shares:?}");
    for name in ["a", "b"] {
        assert!(shares[name].abs_diff(500) <= 20, "{shares:?}");
    }
}

#[tokio::test]
async fn service_rules_match_request_after_gateway_filters() {
    for version in BOTH {
        let mut front = rule(0, vec![to("a", 1)]);
        front.matches[0].path = Some(PathMatch::Prefix("/shop".into()));
        front.filters = vec![
            Filter::RequestHeaders(edit("gateway", "1")),
            Filter::Rewrite(Rewrite {
                host: None,
                path: Some(PathEdit::Prefix("/".into())),
            }),
            Filter::ResponseHeaders(edit("gateway", "3")),
        ];
        front.backends[0].filters = vec![
            Filter::RequestHeaders(edit("gateway's backend", "2")),
            Filter::ResponseHeaders(edit("gateway's backend", "2")),
        ];
        let mut own = rule(0, vec![to("a2", 1)]);
        own.matches = vec![RequestMatch {
            path: Some(PathMatch::Prefix("/items".into())),
            headers: vec![HeaderMatch {
                name: HeaderName::from_static("x-set"),
                value: ValueMatch::Exact("gateway's backend".into()),
            }],
            ..Default::default()
        }];
        own.filters = vec![
            Filter::RequestHeaders(edit("service", "3")),
            Filter::Rewrite(Rewrite {
                host: None,
                path: Some(PathEdit::Prefix("/v2".into())),
            }),
            Filter::ResponseHeaders(edit("service", "1")),
        ];
        let services = vec![of("a", vec![own])];
        let mut shop = Shop::start(version, vec![front], services).await;
        let seen = shop.client.get("/shop/items/7?full").await;
        assert_eq!(seen.header("x-upstream"), "a2", "{seen:?}");
        assert_eq!(seen.header("x-path"), "/v2/7?full");
        assert_eq!(seen.header("x-saw-x-set"), "service");
        let all = |name| -> Vec<_> { seen.headers.get_all(name).iter().collect() };
        assert_eq!(all("x-saw-x-add"), ["1", "2", "3"]);
        assert_eq!(seen.header("x-set"), "gateway");
        assert_eq!(all("x-add"), ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn request_matching_no_service_rule_gets_404() {
    for version in BOTH {
        let mut own = rule(0, vec![to("a", 1)]);
        own.matches[0].path = Some(PathMatch::Prefix("/items".into()));
        let front = vec![rule(0, vec![to("a", 1)])];
        let mut shop = Shop::start(version, front, vec![of("a", vec![own])]).await;
        // The backend of a Service's rule is its endpoints: its rules are not applied a second
        // time.
        let seen = shop.client.get("/items").await;
        assert_eq!((seen.status, seen.header("x-upstream")), (200, "a"));
        let seen = shop.client.get("/other").await;
        assert_eq!(seen.status, 404, "{seen:?}");
        // The 404 is counted on the gateway's rule; a matched request on the Service's.
        let metrics = shop.gateway.metrics();
        assert!(counts(&metrics, FRONT, "a", "404"), "{metrics}");
        assert!(counts(&metrics, OWN, "a", "200"), "{metrics}");
        let call = Request::post("/shop.Other/Get").header("content-type", "application/grpc");
        let seen = shop.client.send(call, "").await;
        assert_eq!((seen.status, seen.header("grpc-status")), (200, "12"));
        let call = Request::post("/items/Get").header("content-type", "application/grpc");
        let seen = shop.client.send(call, "").await;
        assert_eq!(seen.header("x-upstream"), "a", "{seen:?}");
    }
}
