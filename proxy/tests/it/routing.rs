//! Effects of routes on requests: choice of the backend, filters, timeouts, error responses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use weft_ir::{
    Backend, Filter, HeaderEdit, HeaderMatch, Mode, PathEdit, PathMatch, Protocol, Redirect,
    RequestMatch, Rewrite, RouteKind, Routing, Rule, TimeLimit, Timeouts, ValueMatch,
    WeightedBackend,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// A client pod and three versions of an application, which have no proxies.
struct Shop {
    client: Pod,
    apps: Vec<Upstream>,
    front: std::net::SocketAddr,
}

impl Shop {
    async fn start(version: Version) -> Self {
        let speaks = match version {
            Version::Http1 => Speaks::Http1,
            Version::Http2 => Speaks::Http2,
        };
        let client = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
        let mut apps = Vec::new();
        for name in ["v1", "v2", "v3"] {
            let app = Upstream::start(name, speaks).await.unwrap();
            let one = [unmeshed(app.address())];
            client.tell(vec![endpoints(name, Protocol::Detect, &one)]);
            apps.push(app);
        }
        let front = client.outbound(SERVICE.parse().unwrap());
        Self {
            client,
            apps,
            front,
        }
    }

    async fn routed(version: Version, rules: Vec<Rule>) -> (Self, Client) {
        let shop = Self::start(version).await;
        // The endpoints are sent again with the routes: unreferenced endpoint sets are not kept.
        let mut resources: Vec<_> = shop
            .apps
            .iter()
            .zip(["v1", "v2", "v3"])
            .map(|(app, name)| endpoints(name, Protocol::Detect, &[unmeshed(app.address())]))
            .collect();
        let rules = rules.into_iter().map(Arc::new).collect();
        resources.push(service(Protocol::Http1, Routing::Http(rules)));
        shop.client.tell(resources);
        let client = Client::connect(shop.front, version).await;
        (shop, client)
    }
}

fn prefix(path: &str) -> RequestMatch {
    RequestMatch {
        path: Some(PathMatch::Prefix(path.into())),
        ..Default::default()
    }
}

fn invalid(weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        backend: Backend::Invalid("Service shop/gone does not exist".into()),
        filters: Vec::new(),
    }
}

#[tokio::test]
async fn backend_is_chosen_by_weight_and_header() {
    for version in BOTH {
        let mut canary = rule(1, vec![to("v3", 1)]);
        canary.matches[0].headers.push(HeaderMatch {
            name: HeaderName::from_static("x-user"),
            value: ValueMatch::Exact("canary".into()),
        });
        let split = rule(0, vec![to("v1", 90), to("v2", 10), to("v3", 0)]);
        let (shop, mut client) = Shop::routed(version, vec![split, canary]).await;
        let mut taken: HashMap<String, u32> = HashMap::new();
        for _ in 0..300 {
            let seen = client.get("/").await;
            *taken
                .entry(seen.header("x-upstream").to_owned())
                .or_default() += 1;
        }
        assert_eq!(taken.len(), 2, "{taken:?}");
        assert!((5..70).contains(&taken["v2"]), "{taken:?}");
        let seen = client
            .send(Request::get("/").header("x-user", "canary"), "")
            .await;
        assert_eq!(seen.header("x-upstream"), "v3");
        let metrics = shop.client.metrics();
        let line = concat!(
            r#"weft_requests_total{direction="outbound","#,
            r#"parent_kind="Service",parent_namespace="shop",parent_name="reviews",parent_port="80","#,
            r#"route_kind="HTTPRoute",route_namespace="shop",route_name="reviews",rule="1","#,
            r#"backend_kind="Service",backend_namespace="shop",backend_name="v3",backend_port="80","#,
            r#"code="200""#,
        );
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn filters_modify_requests_and_responses() {
    for version in BOTH {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut changed = rule(0, vec![to("v1", 1)]);
        changed.matches = vec![prefix("/old")];
        changed.filters = vec![
            Filter::RequestHeaders(HeaderEdit {
                set: vec![(name("x-set"), value("rule"))],
                add: vec![(name("x-add"), value("2"))],
                remove: vec![name("x-remove")],
            }),
            Filter::Rewrite(Rewrite {
                host: Some(value("other.example")),
                path: Some(PathEdit::Prefix("/new".into())),
            }),
            Filter::ResponseHeaders(HeaderEdit {
                set: vec![(name("x-upstream"), value("hidden"))],
                ..Default::default()
            }),
        ];
        changed.backends[0].filters = vec![Filter::RequestHeaders(HeaderEdit {
            set: vec![(name("x-backend"), value("v1"))],
            ..Default::default()
        })];
        let mut away = rule(1, vec![]);
        away.matches = vec![prefix("/away")];
        away.filters = vec![Filter::Redirect(Redirect {
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            code: StatusCode::MOVED_PERMANENTLY,
        })];
        let (_shop, mut client) = Shop::routed(version, vec![changed, away]).await;
        let request = Request::get("/old/a?b")
            .header("x-add", "1")
            .header("x-remove", "1");
        let seen = client.send(request, "").await;
        assert_eq!(seen.header("x-path"), "/new/a?b");
        assert_eq!(seen.header("x-saw-x-set"), "rule");
        assert_eq!(seen.header("x-saw-x-backend"), "v1");
        assert_eq!(seen.headers.get_all("x-saw-x-add").iter().count(), 2);
        assert_eq!(seen.header("x-saw-x-remove"), "");
        assert_eq!(seen.header("x-upstream"), "hidden");
        let host = match version {
            Version::Http1 => seen.header("x-saw-host"),
            Version::Http2 => seen.header("x-authority"),
        };
        assert_eq!(host, "other.example");
        let seen = client.get("/away/x?y").await;
        assert_eq!(
            (seen.status, seen.header("location")),
            (301, "https://reviews/away/x?y")
        );
    }
}

/// A rule's response filters also apply to redirects, and to errors for a backend without endpoints
/// or an invalid one.
#[tokio::test]
async fn response_filters_apply_to_error_responses() {
    for version in BOTH {
        let header = |value| HeaderEdit {
            set: vec![("x-frame-options".parse().unwrap(), value)],
            ..Default::default()
        };
        let secured = |index, path, mut filters: Vec<Filter>, backends| {
            let edit = header(HeaderValue::from_static("DENY"));
            filters.push(Filter::ResponseHeaders(edit));
            Rule {
                matches: vec![prefix(path)],
                filters,
                ..rule(index, backends)
            }
        };
        let redirect = Filter::Redirect(Redirect {
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            code: StatusCode::MOVED_PERMANENTLY,
        });
        let rules = vec![
            secured(0, "/away", vec![redirect], vec![]),
            secured(1, "/nobody", vec![], vec![to("nobody", 1)]),
            secured(2, "/invalid", vec![], vec![invalid(1)]),
            secured(3, "/", vec![], vec![to("v1", 1)]),
        ];
        let (_shop, mut client) = Shop::routed(version, rules).await;
        for (path, status) in [
            ("/away", 301),
            ("/nobody", 503),
            ("/invalid", 500),
            ("/", 200),
        ] {
            let seen = client.get(path).await;
            assert_eq!(
                (seen.status, seen.header("x-frame-options")),
                (status, "DENY"),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn failure_responses_name_their_cause() {
    for version in BOTH {
        let at = |index, path, backends| Rule {
            matches: vec![prefix(path)],
            ..rule(index, backends)
        };
        let mut failing = at(0, "/failing", vec![to("v1", 1)]);
        failing.failure = Some("filter RequestMirror is not supported".into());
        let mut bad_match = at(1, "/bad-match", vec![to("v1", 1)]);
        bad_match.matches[0].invalid = true;
        let rules = vec![
            failing,
            bad_match,
            at(2, "/invalid", vec![invalid(1)]),
            at(3, "/none", vec![]),
            at(4, "/empty", vec![to("nobody", 1)]),
        ];
        let (_shop, mut client) = Shop::routed(version, rules).await;
        for (path, status, cause, error_type) in [
            (
                "/failing",
                500,
                "RequestMirror is not supported",
                "invalid_configuration",
            ),
            (
                "/bad-match",
                500,
                "does not compile",
                "invalid_configuration",
            ),
            (
                "/invalid",
                500,
                "shop/gone does not exist",
                "invalid_configuration",
            ),
            ("/none", 500, "no backends", "invalid_configuration"),
            (
                "/empty",
                503,
                "shop/nobody:80 has no ready endpoints",
                "no_endpoints",
            ),
            ("/other", 404, "no rule", "no_route"),
        ] {
            let seen = client.get(path).await;
            assert_eq!(seen.status, status, "{path} {seen:?}");
            assert_eq!(seen.header("weft-error-type"), error_type, "{path}");
            assert!(seen.header("weft-error").contains(cause), "{path} {seen:?}");
        }
    }
}

#[tokio::test]
async fn grpc_failures_map_to_grpc_status() {
    let mut late = rule(1, vec![to("v1", 1)]);
    late.matches = vec![prefix("/shop.Late")];
    late.timeouts.request = Duration::from_millis(50).into();
    let mut gone = rule(0, vec![invalid(1)]);
    gone.matches = vec![prefix("/shop.Gone")];
    let mut empty = rule(2, vec![to("nobody", 1)]);
    empty.matches = vec![prefix("/shop.Empty")];
    let mut rules = vec![gone, late, empty];
    rules
        .iter_mut()
        .for_each(|rule| rule.route.kind = RouteKind::Grpc);
    let shop = Shop::start(Version::Http2).await;
    let app = [unmeshed(shop.apps[0].address())];
    shop.client.tell(vec![
        endpoints("v1", Protocol::Grpc, &app),
        service(
            Protocol::Grpc,
            Routing::Grpc(rules.into_iter().map(Arc::new).collect()),
        ),
    ]);
    let mut client = Client::connect(shop.front, Version::Http2).await;
    for (path, status) in [
        ("/shop.Other/Get", "12"),
        ("/shop.Gone/Get", "13"),
        ("/shop.Empty/Get", "14"),
        ("/shop.Late/Get", "4"),
    ] {
        let request = Request::post(path)
            .header("content-type", "application/grpc+proto")
            .header("x-delay", "5000");
        let seen = client.send(request, "m").await;
        assert_eq!(seen.status, 200);
        assert_eq!(seen.header("grpc-status"), status, "{path} {seen:?}");
        assert!(!seen.header("grpc-message").is_empty());
    }
}

#[tokio::test]
async fn timeouts_return_504() {
    for version in BOTH {
        let mut request = rule(0, vec![to("v1", 1)]);
        request.matches = vec![prefix("/request")];
        request.timeouts = Timeouts {
            request: Duration::from_millis(60).into(),
            backend: TimeLimit::Unsaid,
        };
        let mut backend = rule(1, vec![to("v1", 1)]);
        backend.matches = vec![prefix("/backend")];
        backend.timeouts = Timeouts {
            request: Duration::from_secs(5).into(),
            backend: Duration::from_millis(60).into(),
        };
        let (_shop, mut client) = Shop::routed(version, vec![request, backend]).await;
        for (path, cause) in [
            ("/request", "request timeout of 60ms"),
            ("/backend", "its timeout of 60ms"),
        ] {
            let seen = client
                .send(Request::get(path).header("x-delay", "5000"), "")
                .await;
            assert_eq!(seen.status, 504, "{path}");
            assert!(seen.header("weft-error").contains(cause), "{seen:?}");
            assert_eq!(client.get(path).await.status, 200);
        }
    }
}

#[tokio::test]
async fn configuration_change_fails_no_request() {
    for version in BOTH {
        let (shop, mut client) = Shop::routed(version, vec![rule(0, vec![to("v1", 1)])]).await;
        let mut taken: HashMap<String, u32> = HashMap::new();
        for turn in 0..200_usize {
            if turn % 5 == 0 {
                let name = ["v1", "v2", "v3"][turn / 5 % 3];
                let app = [unmeshed(shop.apps[turn / 5 % 3].address())];
                shop.client.tell(vec![
                    endpoints(name, Protocol::Detect, &app),
                    service(
                        Protocol::Http1,
                        Routing::Http(vec![rule(0, vec![to(name, 1)]).into()]),
                    ),
                ]);
            }
            let seen = client.send(Request::post("/"), "body").await;
            assert_eq!(seen.status, 200, "{seen:?}");
            *taken
                .entry(seen.header("x-upstream").to_owned())
                .or_default() += 1;
        }
        assert_eq!(taken.len(), 3, "{taken:?}");
    }
}

#[tokio::test]
async fn application_restart_fails_no_request() {
    let (mut shop, mut client) =
        Shop::routed(Version::Http1, vec![rule(0, vec![to("v1", 1)])]).await;
    for _ in 0..5 {
        assert_eq!(client.send(Request::post("/"), "a").await.status, 200);
        // The pooled connection is stale from here on.
        let app = shop.apps.remove(0);
        let address = app.address();
        app.stop().await;
        shop.apps.insert(
            0,
            Upstream::start_at(address, "v1", Speaks::Http1)
                .await
                .unwrap(),
        );
    }
    let app = shop.apps.remove(0);
    app.stop().await;
    let seen = client.get("/").await;
    assert_eq!(seen.status, 503);
    assert!(
        seen.header("weft-error").contains("connecting to"),
        "{seen:?}"
    );
}
