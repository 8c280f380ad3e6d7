//! Filters of listeners: in order, before routes, and never about the host.

use weft_ir::{HeaderMatch, RequestMatch, ValueMatch};

use super::*;

#[tokio::test]
async fn filters_run_in_order_until_one_denies_and_before_the_route_is_chosen() {
    let app = Upstream::start("app", Speaks::Http1).await.unwrap();
    let mut first = Server::start(Version::Http1, |asked| {
        let tenant = asked.header("x-key").to_owned();
        match tenant.as_str() {
            "" => answer(401, &[("www-authenticate", "Bearer")], ""),
            tenant => answer(200, &[("x-tenant", tenant), ("host", "other")], ""),
        }
    })
    .await;
    let mut second = Server::start(Version::Http1, |asked| {
        let tenant = format!("{}-checked", asked.header("x-tenant"));
        answer(200, &[("x-tenant", &tenant)], "")
    })
    .await;
    let of = |server: &str, headers: &[&'static str]| {
        Arc::new(ExternalAuth {
            server: Ok(port(server)),
            ..http_auth(headers, &["x-tenant"])
        })
    };
    let mut rule = rule(0, vec![to("v1", 1)]);
    rule.matches = vec![RequestMatch {
        headers: vec![HeaderMatch {
            name: http::HeaderName::from_static("x-tenant"),
            value: ValueMatch::Exact("a-checked".into()),
        }],
        ..RequestMatch::default()
    }];
    let mut web = listener("web", "shop.example.com", vec![host("", vec![rule])]);
    web.external_auth = vec![of("auth", &["x-key"]), of("auth2", &["x-tenant"])];
    let open = listener("open", "", vec![]);
    let gateway = GatewayPod::start();
    let number = free_port();
    gateway.tell(vec![
        endpoints("v1", Protocol::Detect, &[unmeshed(app.address())]),
        endpoints("auth", Protocol::Detect, &[unmeshed(first.address)]),
        endpoints("auth2", Protocol::Detect, &[unmeshed(second.address)]),
        gateway_port(number, Serving::Http(vec![web, open])),
    ]);
    for version in BOTH {
        let mut client = Client::connect(at(number), version).await;
        let ask = |key: &'static str, host: &'static str| {
            let ask = http::Request::get("/").header("host", host);
            ask.header("x-key", key).header("x-tenant", "a-checked")
        };
        let seen = client.send(ask("a", "shop.example.com"), "").await;
        assert_eq!(seen.status, 200, "{seen:?}");
        assert_eq!(seen.header("x-saw-x-tenant"), "a-checked");
        assert_eq!(host_of(&seen), "shop.example.com");
        assert_eq!(second.last().header("x-tenant"), "a");
        // Another tenant has no route: the client's own header does not count.
        let seen = client.send(ask("b", "shop.example.com"), "").await;
        assert_eq!(seen.status, 404);
        second.last();
        let seen = client.send(ask("", "shop.example.com"), "").await;
        assert_eq!(seen.status, 401);
        assert_eq!(seen.header("www-authenticate"), "Bearer");
        assert!(second.is_unasked());
        for _ in 0..3 {
            first.last();
        }
        // Another listener has no filters.
        let seen = client.send(ask("", "other.example.com"), "").await;
        assert_eq!(seen.status, 404);
        assert!(first.is_unasked());
    }
}

/// A listener whose server cannot be resolved is never open.
#[tokio::test]
async fn listener_without_its_server_fails_every_request() {
    for at in ALL {
        let filter = ExternalAuth {
            server: Err("Service shop/auth does not exist".into()),
            ..http_auth(&[], &[])
        };
        let scene = Scene::new(at, Version::Http1, filter, None).await;
        let seen = scene.client().await.get("/").await;
        assert_eq!((seen.status, scene.app.requests()), (500, 0), "{at:?}");
    }
}
