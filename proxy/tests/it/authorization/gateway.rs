//! Authorization at a gateway: of its listeners by the client's address, and of routes.

use super::*;
use crate::support::gateway::{GatewayPod, at, free_port, gateway, host, listener, port};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ir::{
    ConnectionRule, ForwardedTrust, Gateway, HttpListener, Mode, Protocol, RouteId, RouteKind,
    RouteSection, Rule, Serving, StreamListener,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// A gateway in front of an application, with the listeners `web` and `admin` of one port.
struct Shop {
    gateway: GatewayPod,
    app: Upstream,
    number: u16,
}

/// Two rules: that of `/cart` has the name `cart`, the other none.
fn rules() -> Vec<Rule> {
    let mut cart = rule(0, vec![to("v1", 1)]);
    cart.name = Some("cart".into());
    cart.matches = vec![prefix("/cart")];
    vec![cart, rule(1, vec![to("v1", 1)])]
}

fn listeners() -> Vec<HttpListener> {
    ["web", "admin"]
        .map(|name| listener(name, &format!("{name}.example"), vec![host("", rules())]))
        .to_vec()
}

impl Shop {
    async fn start() -> Self {
        Self::of(GatewayPod::start()).await
    }

    async fn of(gateway: GatewayPod) -> Self {
        let shop = Self {
            gateway,
            app: Upstream::start("v1", Speaks::Http1).await.unwrap(),
            number: free_port(),
        };
        let app = shop.app.address();
        shop.gateway.tell(vec![
            endpoints("v1", Protocol::Detect, &[unmeshed(app)]),
            port(shop.number, Serving::Http(listeners())),
        ]);
        shop
    }

    fn enforce(
        &self,
        listeners: &[(&str, Authorization)],
        routes: &[(Option<&str>, Authorization)],
    ) {
        let number = self.number;
        let route = rules()[0].route.clone();
        let section = |rule: &Option<&str>| RouteSection {
            route: route.clone(),
            rule: rule.map(str::to_owned),
        };
        self.gateway
            .tell(vec![encode::authorizations(&Authorizations {
                workload: Authorization::default(),
                listeners: listeners
                    .iter()
                    .map(|(name, of)| ((number, (*name).to_owned()), of.clone()))
                    .collect(),
                routes: routes
                    .iter()
                    .map(|(rule, of)| (section(rule), of.clone()))
                    .collect(),
            })]);
    }

    async fn ask(&self, request: http::request::Builder) -> TestResponse {
        let mut client = Client::connect(at(self.number), Version::Http1).await;
        client.send(request, "").await
    }
}

fn get(name: &str, path: &str) -> http::request::Builder {
    Request::get(path).header("host", format!("{name}.example"))
}

fn from_network(text: &str) -> Authorization {
    of(vec![policy(
        "networks",
        Allow,
        vec![from(&[network(text)])],
    )])
}

#[tokio::test]
async fn listener_policy_decides_by_client_after_trusted_hops() {
    let shop = Shop::start().await;
    let trusting = |hops| Gateway {
        forwarded: ForwardedTrust {
            hops,
            ..ForwardedTrust::default()
        },
        ..gateway()
    };
    let named = |client: &str| get("web", "/").header("x-forwarded-for", client);
    shop.enforce(&[("web", from_network("203.0.113.0/24"))], &[]);
    for (hops, client, code) in [
        (0, "203.0.113.7", 403),
        (1, "203.0.113.7", 200),
        (1, "198.51.100.1", 403),
        (1, "203.0.113.7, 198.51.100.1", 403),
        (1, "198.51.100.1, 203.0.113.7", 200),
        (2, "203.0.113.7, 198.51.100.1", 200),
        (2, "203.0.113.7", 403),
    ] {
        shop.gateway.tell(vec![encode::gateway(&trusting(hops))]);
        let seen = shop.ask(named(client)).await;
        assert_eq!(seen.status, code, "{hops} {client}");
    }
    // Several clients on one connection.
    shop.gateway.tell(vec![encode::gateway(&trusting(1))]);
    let mut client = Client::connect(at(shop.number), Version::Http1).await;
    for number in 0..20 {
        let (inside, outside) = (
            format!("203.0.113.{number}"),
            format!("198.51.100.{number}"),
        );
        assert_eq!(client.send(named(&inside), "").await.status, 200);
        assert_eq!(client.send(named(&outside), "").await.status, 403);
    }
    shop.gateway.tell(vec![encode::gateway(&trusting(0))]);
    shop.enforce(&[("web", from_network("127.0.0.0/8"))], &[]);
    assert_eq!(shop.ask(get("web", "/")).await.status, 200);
}

#[tokio::test]
async fn listener_and_route_policies_apply_to_their_own() {
    let shop = Shop::start().await;
    let deny = || of(deny_all());
    let codes = async || {
        let mut codes = Vec::new();
        for (name, path) in [
            ("web", "/"),
            ("web", "/cart"),
            ("admin", "/"),
            ("admin", "/cart"),
        ] {
            codes.push(shop.ask(get(name, path)).await.status);
        }
        codes
    };
    assert_eq!(codes().await, [200, 200, 200, 200]);
    shop.enforce(&[("admin", deny())], &[]);
    assert_eq!(codes().await, [200, 200, 403, 403]);
    shop.enforce(&[], &[(Some("cart"), deny())]);
    assert_eq!(codes().await, [200, 403, 200, 403]);
    shop.enforce(
        &[("web", from_network("10.0.0.0/8"))],
        &[(Some("cart"), deny())],
    );
    assert_eq!(codes().await, [403, 403, 200, 403]);
    shop.enforce(&[], &[(None, deny())]);
    assert_eq!(codes().await, [403, 403, 403, 403]);
    // The route and the rule both decide.
    shop.enforce(
        &[],
        &[(None, from_network("127.0.0.0/8")), (Some("cart"), deny())],
    );
    assert_eq!(codes().await, [200, 403, 200, 403]);
    shop.enforce(
        &[],
        &[
            (None, from_network("10.0.0.0/8")),
            (Some("cart"), from_network("127.0.0.0/8")),
        ],
    );
    assert_eq!(codes().await, [403, 403, 403, 403]);
    shop.enforce(&[], &[]);
    assert_eq!(codes().await, [200, 200, 200, 200]);
}

#[tokio::test]
async fn client_outside_is_told_nothing() {
    let shop = Shop::start().await;
    shop.enforce(&[("web", of(deny_all()))], &[]);
    for version in BOTH {
        let mut client = Client::connect(at(shop.number), version).await;
        let seen = client.send(get("web", "/"), "").await;
        assert_eq!(
            (seen.status, &seen.body[..]),
            (403, &b""[..]),
            "{version:?}"
        );
        let message = format!("{:?}", seen.headers);
        assert!(
            !message.contains("nobody") && !message.contains("weft"),
            "{message}"
        );
    }
    let call = get("web", "/t.S/List").method("POST");
    let mut client = Client::connect(at(shop.number), Version::Http2).await;
    let seen = client
        .send(call.header("content-type", "application/grpc"), "")
        .await;
    let status = (seen.header("grpc-status"), seen.header("grpc-message"));
    assert_eq!(status, ("7", "failed at the gateway"));
    let metrics = shop.gateway.metrics();
    assert_eq!(count(&metrics, &series("gateway", "denied", "nobody")), 3);
}

/// What a sidecar tells the clients of the mesh stays inside, its body included.
#[tokio::test]
async fn denial_by_sidecar_is_redacted() {
    let pki = Pki::new().unwrap();
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let pod = Pod::start(&pki, "reviews", Mode::Strict);
    let back = pod.inbound(app.address());
    let shop = Shop::of(GatewayPod::start_in(&pki)).await;
    let endpoint = meshed(back, "reviews");
    let endpoints = endpoints("v1", Protocol::Detect, &[endpoint]);
    shop.gateway.tell(vec![endpoints]);
    for version in BOTH {
        let mut client = Client::connect(at(shop.number), version).await;
        enforce(&pod, deny_all());
        let seen = client.send(get("web", "/"), "").await;
        assert_eq!(
            (seen.status, &seen.body[..]),
            (403, &b""[..]),
            "{version:?}"
        );
        assert_eq!(
            (seen.header("weft-error"), seen.header("content-type")),
            ("", "")
        );
        enforce(&pod, Vec::new());
        let seen = client.send(get("web", "/").method("POST"), "body").await;
        assert_eq!((seen.status, &seen.body[..]), (200, &b"body"[..]));
    }
}

#[tokio::test]
async fn path_is_normalized_for_policies_whatever_the_gateway_says() {
    let shop = Shop::start().await;
    let as_is = Gateway {
        normalize_paths: false,
        ..gateway()
    };
    shop.gateway.tell(vec![encode::gateway(&as_is)]);
    let seen = shop.ask(get("web", "/a//b")).await;
    assert_eq!((seen.status, seen.header("x-path")), (200, "/a//b"));
    let admin = of(vec![policy(
        "p",
        Deny,
        vec![to_requests(&[prefix("/admin")])],
    )]);
    shop.enforce(&[("web", admin)], &[]);
    assert_eq!(shop.ask(get("web", "/a/..//admin")).await.status, 403);
    let seen = shop.ask(get("web", "/a//b")).await;
    assert_eq!((seen.status, seen.header("x-path")), (200, "/a/b"));
}

#[tokio::test]
async fn stream_listener_decides_by_client_and_again_when_policies_change() {
    let app = Upstream::start("v1", Speaks::Echo).await.unwrap();
    let gateway = GatewayPod::start();
    let number = free_port();
    let route = RouteId {
        kind: RouteKind::Tcp,
        namespace: "shop".into(),
        name: "bytes".into(),
    };
    let rule = ConnectionRule {
        route,
        index: 0,
        name: None,
        backends: vec![to("v1", 1)],
    };
    let stream = StreamListener {
        name: "bytes".into(),
        rule: Some(rule),
    };
    gateway.tell(vec![
        endpoints("v1", Protocol::Tcp, &[unmeshed(app.address())]),
        port(number, Serving::Tcp(stream)),
    ]);
    let enforce = |text: &str| {
        gateway.tell(vec![encode::authorizations(&Authorizations {
            listeners: vec![((number, "bytes".to_owned()), from_network(text))],
            ..Authorizations::default()
        })]);
    };
    let mut client = TcpStream::connect(at(number)).await.unwrap();
    let echoed = async |client: &mut TcpStream| {
        client.write_all(b"ask").await.unwrap();
        let mut back = [0; 3];
        within_a_second(client.read_exact(&mut back)).await.is_ok()
    };
    assert!(echoed(&mut client).await);
    enforce("127.0.0.0/8");
    assert!(echoed(&mut client).await);
    let connections = app.connections();
    enforce("10.0.0.0/8");
    assert_eq!(
        within_a_second(client.read(&mut [0; 1])).await.unwrap_or(0),
        0
    );
    let mut other = TcpStream::connect(at(number)).await.unwrap();
    assert!(!echoed(&mut other).await);
    assert_eq!(app.connections(), connections);
    let metrics = gateway.metrics();
    assert_eq!(count(&metrics, &series("gateway", "denied", "")), 2);
}

#[tokio::test]
async fn refused_policies_close_all_listeners() {
    let shop = Shop::start().await;
    let refused = shop.gateway.try_tell(
        vec![proto::Resource {
            key: "authorization".to_owned(),
            version: 1,
            body: None,
        }],
        &[],
    );
    assert_eq!(refused.len(), 1);
    for name in ["web", "admin"] {
        assert_eq!(shop.ask(get(name, "/")).await.status, 403);
    }
    shop.enforce(&[], &[]);
    assert_eq!(shop.ask(get("web", "/")).await.status, 200);
}
