//! A gateway's ports without TLS: HTTP by host, bytes, and ports that come, change and go.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use http::Request;
use support::gateway::{GatewayPod, all_to, at, free_port, host, listener, port};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_api::proto;
use weft_ir::{Filter, HttpListener, Protocol, Redirect, RequestMatch, Serving, StreamListener};
use weft_testkit::upstream::{Speaks, Upstream};

/// A gateway before three applications.
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

    /// The endpoints of all: they come with the routes that refer to them.
    fn endpoints(&self) -> Vec<proto::Resource> {
        let apps = self.apps.iter().zip(["v1", "v2", "v3"]);
        apps.map(|(app, name)| endpoints(name, Protocol::Detect, &[unmeshed(app.address())]))
            .collect()
    }

    fn tell(&self, number: u16, serving: Serving) {
        let mut told = self.endpoints();
        told.push(port(number, serving));
        self.gateway.tell(told);
    }

    async fn http(version: Version, listeners: Vec<HttpListener>) -> (Self, u16, Client) {
        let shop = Self::start(match version {
            Version::Http1 => Speaks::Http1,
            Version::Http2 => Speaks::Http2,
        });
        let shop = shop.await;
        let number = free_port();
        shop.tell(number, Serving::Http(listeners));
        (shop, number, Client::connect(at(number), version).await)
    }
}

async fn ask(client: &mut Client, host: &str, path: &str) -> Seen {
    client
        .send(Request::get(path).header("host", host), "")
        .await
}

/// What comes back for these bytes, up to the end of the connection.
async fn raw(number: u16, bytes: &str) -> String {
    let mut tcp = TcpStream::connect(at(number)).await.unwrap();
    tcp.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tcp.read_to_string(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    answer
}

#[tokio::test]
async fn the_most_specific_listener_alone_takes_a_request() {
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
async fn what_no_listener_is_for_gets_404_and_grpc_unimplemented() {
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
async fn redirects_name_the_listeners_own_port() {
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
async fn requests_of_every_form_are_read_strictly() {
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
async fn a_port_of_bytes_goes_by_the_rules_weights() {
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
    let told = r#"weft_protocol_errors_total{listener="gateway",reason="no_route"} 1"#;
    assert!(
        shop.gateway.metrics().contains(told),
        "{}",
        shop.gateway.metrics()
    );
}
