//! Gateway ports without TLS: HTTP by host, opaque TCP, and ports that are added, changed and
//! removed.

use std::time::Duration;

use crate::support::gateway::{
    GatewayPod, all_to, at, free_port, gateway, host, listener, port, server_tls,
};
use crate::support::*;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_api::{encode, proto};
use weft_ir::{
    Filter, Gateway, HttpListener, KeyPair, Protocol, Redirect, RequestMatch, Serving,
    StreamListener, TlsListener, TlsServing,
};
use weft_testkit::pki::{Pki, ServerKey};
use weft_testkit::upstream::{Speaks, Upstream};

/// A gateway in front of three applications.
struct Shop {
    gateway: GatewayPod,
    apps: Vec<Upstream>,
}

impl Shop {
    async fn start(speaks: Speaks) -> Self {
        let mut apps = Vec::new();
        for name in ["v1", "v2", "v3"] {
            apps.push(Upstream::start(name, speaks).await.unwrap());
        }
        let gateway = GatewayPod::start();
        Self { gateway, apps }
    }

    /// The endpoint sets of all applications: they are sent with the routes that refer to them.
    fn endpoints(&self) -> Vec<proto::Resource> {
        let apps = self.apps.iter().zip(["v1", "v2", "v3"]);
        apps.map(|(app, name)| endpoints(name, Protocol::Detect, &[unmeshed(app.address())]))
            .collect()
    }

    fn tell(&self, number: u16, serving: Serving) {
        let mut resources = self.endpoints();
        resources.push(port(number, serving));
        self.gateway.tell(resources);
    }

    async fn http(version: Version, listeners: Vec<HttpListener>) -> (Self, u16, Client) {
        // The application's version is independent of the client's.
        let shop = Self::start(Speaks::Http1).await;
        let number = free_port();
        shop.tell(number, Serving::Http(listeners));
        (shop, number, Client::connect(at(number), version).await)
    }
}

async fn ask(client: &mut Client, host: &str, path: &str) -> TestResponse {
    client
        .send(Request::get(path).header("host", host), "")
        .await
}

/// Sends bytes; returns what is received until the connection closes.
async fn raw(number: u16, bytes: &str) -> String {
    let mut tcp = TcpStream::connect(at(number)).await.unwrap();
    tcp.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tcp.read_to_string(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    answer
}

#[tokio::test]
async fn most_specific_listener_handles_request() {
    for version in BOTH {
        let mut only_a = rule(0, vec![to("v3", 1)]);
        only_a.matches = vec![RequestMatch {
            path: Some(weft_ir::PathMatch::Prefix("/a".into())),
            ..Default::default()
        }];
        let (_shop, _, mut client) = Shop::http(
            version,
            vec![
                listener("any", "", vec![host("", all_to("v1"))]),
                listener(
                    "wild",
                    "*.example.com",
                    vec![
                        host("*.example.com", all_to("v2")),
                        host("both.example.com", vec![only_a.clone()]),
                    ],
                ),
                listener(
                    "one",
                    "one.example.com",
                    vec![host("one.example.com", vec![only_a])],
                ),
                listener("none", "none.example.com", vec![]),
            ],
        )
        .await;
        for (name, path, found) in [
            ("other.org", "/", "v1"),
            ("a.example.com", "/", "v2"),
            ("A.Example.com:8080", "/", "v2"),
            ("both.example.com", "/a", "v3"),
            ("both.example.com", "/b", "v2"),
            ("one.example.com", "/a", "v3"),
        ] {
            let seen = ask(&mut client, name, path).await;
            assert_eq!(seen.header("x-upstream"), found, "{name}{path} {seen:?}");
        }
        for name in ["one.example.com", "none.example.com"] {
            assert_eq!(ask(&mut client, name, "/b").await.status, 404, "{name}");
        }
    }
}

#[tokio::test]
async fn unmatched_host_gets_404_or_grpc_unimplemented() {
    for version in BOTH {
        let listeners = vec![listener("a", "a.com", vec![host("a.com", all_to("v1"))])];
        let (_shop, _, mut client) = Shop::http(version, listeners).await;
        let seen = ask(&mut client, "b.com", "/").await;
        assert_eq!(seen.status, 404, "{seen:?}");
        let call = Request::post("/s/m")
            .header("host", "b.com")
            .header("content-type", "application/grpc");
        let seen = client.send(call, "").await;
        assert_eq!((seen.status, seen.header("grpc-status")), (200, "12"));
    }
}

#[tokio::test]
async fn gateway_hides_error_details_from_clients() {
    for version in BOTH {
        let routes = vec![host("a.com", all_to("nobody"))];
        let listeners = vec![listener("a", "a.com", routes)];
        let (_shop, _, mut client) = Shop::http(version, listeners).await;
        let seen = ask(&mut client, "a.com", "/").await;
        assert_eq!((seen.status, seen.header("weft-error")), (503, ""));
        assert_eq!(seen.header("weft-error-type"), "");
        let call = Request::post("/s/m")
            .header("host", "a.com")
            .header("content-type", "application/grpc");
        let seen = client.send(call, "").await;
        let status = (seen.header("grpc-status"), seen.header("grpc-message"));
        assert_eq!(status, ("14", "failed at the gateway"));
        assert_eq!(seen.header("weft-error"), "");
    }
}

#[tokio::test]
async fn gateway_redirect_uses_listener_port() {
    let mut redirect = rule(0, vec![]);
    redirect.filters = vec![Filter::Redirect(Redirect {
        scheme: None,
        host: Some("b.com".into()),
        port: None,
        path: None,
        code: http::StatusCode::FOUND,
    })];
    let listeners = vec![listener("a", "", vec![host("", vec![redirect])])];
    let (_shop, number, mut client) = Shop::http(Version::Http1, listeners).await;
    let seen = ask(&mut client, "a.com", "/x").await;
    assert_eq!(seen.header("location"), format!("http://b.com:{number}/x"));
}

#[tokio::test]
async fn request_targets_and_hosts_are_parsed_strictly() {
    let listeners = vec![
        listener("any", "", vec![host("", all_to("v1"))]),
        listener("a", "a.com", vec![host("a.com", all_to("v2"))]),
    ];
    let (_shop, number, _) = Shop::http(Version::Http1, listeners).await;
    for (request, status, upstream) in [
        (
            "GET http://a.com/ HTTP/1.1\r\nHost: b.com\r\nConnection: close\r\n\r\n",
            200,
            "v2",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a.com\r\nConnection: close\r\n\r\n",
            200,
            "v2",
        ),
        ("GET / HTTP/1.0\r\n\r\n", 200, "v1"),
        ("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n", 200, "v2"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, ""),
        (
            "GET / HTTP/1.1\r\nHost: a.com\r\nHost: a.com\r\nConnection: close\r\n\r\n",
            400,
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a@b.com\r\nConnection: close\r\n\r\n",
            400,
            "",
        ),
        ("SSH-2.0-client\r\n\r\n", 400, ""),
    ] {
        let answer = raw(number, request).await;
        let version = answer.get(..8).unwrap_or_default();
        assert!(
            answer.starts_with(&format!("{version} {status} ")),
            "{request} {answer}"
        );
        assert_eq!(
            answer.contains(&format!("x-upstream: {upstream}\r\n")),
            !upstream.is_empty()
        );
    }
}

#[tokio::test]
async fn tcp_port_follows_rule_weights() {
    let shop = Shop::start(Speaks::Echo).await;
    let (tcp, closed) = (free_port(), free_port());
    let rule = weft_ir::ConnectionRule {
        route: weft_ir::RouteId {
            kind: weft_ir::RouteKind::Tcp,
            namespace: "shop".into(),
            name: "bytes".into(),
        },
        index: 0,
        name: None,
        backends: vec![to("v1", 1), to("v2", 1), to("v3", 0)],
    };
    let stream = |rule| StreamListener {
        name: "tcp".into(),
        rule,
    };
    shop.tell(tcp, Serving::Tcp(stream(Some(rule))));
    shop.tell(closed, Serving::Tcp(stream(None)));
    for _ in 0..40 {
        let mut tcp = TcpStream::connect(at(tcp)).await.unwrap();
        tcp.write_all(b"hello").await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
    }
    let taken: Vec<_> = shop.apps.iter().map(Upstream::connections).collect();
    assert_eq!((taken[0] + taken[1], taken[2]), (40, 0));
    assert!(taken[0] > 5 && taken[1] > 5, "{taken:?}");
    assert_eq!(raw(closed, "").await, "");
    let line = r#"weft_protocol_errors_total{listener="gateway",error_type="no_route"} 1"#;
    assert!(
        shop.gateway.metrics().contains(line),
        "{}",
        shop.gateway.metrics()
    );
}

#[tokio::test]
async fn port_changes_under_load_fail_no_request() {
    let any =
        |backend: &str| Serving::Http(vec![listener("a", "", vec![host("", all_to(backend))])]);
    let shop = Shop::start(Speaks::Http1).await;
    let (stays, passes) = (free_port(), free_port());
    shop.tell(stays, any("v1"));
    let loads: Vec<_> = BOTH
        .into_iter()
        .map(|version| {
            tokio::spawn(async move {
                let mut answered = std::collections::HashSet::new();
                let mut client = Client::connect(at(stays), version).await;
                for turn in 0..300 {
                    if turn % 50 == 0 {
                        client = Client::connect(at(stays), version).await;
                    }
                    let seen = client.send(Request::post("/"), "body").await;
                    assert_eq!(seen.status, 200, "{seen:?}");
                    answered.insert(seen.header("x-upstream").to_owned());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                answered
            })
        })
        .collect();
    for turn in 0..10 {
        shop.tell(passes, any("v2"));
        shop.tell(stays, any(["v1", "v2"][turn % 2]));
        let mut client = Client::connect(at(passes), BOTH[turn % 2]).await;
        let slow = Request::get("/").header("x-delay", "30");
        let (seen, ()) = tokio::join!(client.send(slow, ""), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let key = format!("port/tcp/{passes}");
            assert!(shop.gateway.try_tell(Vec::new(), &[&key]).is_empty());
        });
        assert_eq!(seen.status, 200, "{seen:?}");
        let closed = async { while client.raw(Request::get("/"), "").await.is_ok() {} };
        let closed = tokio::time::timeout(Duration::from_secs(5), closed).await;
        closed.expect("the connection closes with its port");
        assert!(TcpStream::connect(at(passes)).await.is_err());
    }
    for load in loads {
        assert_eq!(load.await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn port_in_use_is_refused_and_bound_once_free() {
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let shop = Shop::start(Speaks::Http1).await;
    tokio::spawn(shop.gateway.store.clone().bind_forever());
    let serving = Serving::Http(vec![listener("a", "", vec![host("", all_to("v1"))])]);
    let mut resources = shop.endpoints();
    resources.push(port(number, serving));
    let refused = shop.gateway.try_tell(resources, &[]);
    assert_eq!(refused[0].key, format!("port/tcp/{number}"));
    assert!(refused[0].reason.contains("in use"), "{refused:?}");
    assert!(!shop.gateway.store.is_open());
    let held = || {
        shop.gateway
            .store
            .held()
            .iter()
            .any(|held| held.key.starts_with("port/"))
    };
    assert!(!held());
    drop(taken);
    let open = async {
        while !shop.gateway.store.is_open() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), open)
        .await
        .unwrap();
    assert!(held());
    let mut client = Client::connect(at(number), Version::Http1).await;
    assert_eq!(client.get("/").await.status, 200);
}

/// The version of a resource that a new stream reports as held.
fn held(gateway: &GatewayPod, key: &str) -> Option<u64> {
    let held = gateway.store.held();
    held.iter()
        .find(|one| one.key == key)
        .map(|one| one.version)
}

/// A partly refused resource is reported with version 0: with the refused version or the one
/// before, the controller might never send it again; without an entry, it could not have it
/// removed.
#[tokio::test]
async fn partly_refused_resource_is_held_without_version() {
    let broken = KeyPair {
        chain: b"no certificate".as_slice().into(),
        key: b"no key".as_slice().into(),
    };
    let pki = Pki::new().unwrap();
    let good = || pki.server(&["a.com"], ServerKey::Ecdsa).unwrap();
    let shop = Shop::start(Speaks::Http1).await;
    let number = free_port();
    let whole = |certificate: Option<KeyPair>| {
        let gateway = encode::gateway(&Gateway {
            client_certificate: certificate.clone(),
            ..crate::support::gateway::gateway()
        });
        let listener = TlsListener {
            name: "a".into(),
            hostname: None,
            serving: TlsServing::Http {
                tls: server_tls(vec![certificate.unwrap_or_else(good)], None),
                external_auth: Vec::new(),
                hosts: Vec::new(),
            },
        };
        [gateway, port(number, Serving::Tls(vec![listener]))]
    };
    for certificate in [Some(good()), Some(broken), None, Some(good())] {
        let resources = whole(certificate.clone());
        let refused = shop.gateway.try_tell(resources.to_vec(), &[]);
        for one in resources {
            let refused = refused.iter().any(|refused| refused.key == one.key);
            let version = if refused { 0 } else { one.version };
            assert_eq!(held(&shop.gateway, &one.key), Some(version), "{one:?}");
        }
        let is_broken = certificate.is_some_and(|pair| &*pair.key == b"no key");
        assert_eq!(refused.len(), if is_broken { 2 } else { 0 }, "{refused:?}");
    }
    let key = format!("port/tcp/{number}");
    assert!(shop.gateway.try_tell(Vec::new(), &[&key]).is_empty());
    assert_eq!(held(&shop.gateway, &key), None);
}

/// All spellings of a path match the same rule, and the application gets the normalized path.
#[tokio::test]
async fn paths_are_matched_and_forwarded_normalized() {
    let spellings = [
        "/admin",
        "//admin",
        "/./admin",
        "/a/../admin",
        "/a/%2e%2e/admin",
        "/%61dmin",
    ];
    for normalize_paths in [true, false] {
        let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
        let pod = GatewayPod::start();
        pod.tell(vec![encode::gateway(&Gateway {
            normalize_paths,
            ..gateway()
        })]);
        let number = free_port();
        let mut forbidden = rule(0, vec![]);
        forbidden.matches[0].path = Some(weft_ir::PathMatch::Prefix("/admin".into()));
        let rules = vec![forbidden, rule(1, vec![to("v1", 1)])];
        let any = listener("http", "", vec![host("", rules)]);
        pod.tell(vec![
            endpoints("v1", Protocol::Http1, &[unmeshed(app.address())]),
            port(number, Serving::Http(vec![any])),
        ]);
        let mut client = Client::connect(at(number), Version::Http1).await;
        for path in spellings {
            let seen = client.get(path).await;
            let stopped = normalize_paths || path == "/admin";
            assert_eq!(seen.status, if stopped { 500 } else { 200 }, "{path}");
            let forwarded = if stopped { "" } else { path };
            assert_eq!(seen.header("x-path"), forwarded);
        }
        let seen = client.get("/x/../y//z?a=//").await;
        let forwarded = if normalize_paths {
            "/y/z?a=//"
        } else {
            "/x/../y//z?a=//"
        };
        assert_eq!(seen.header("x-path"), forwarded);
    }
}
