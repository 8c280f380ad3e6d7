//! Requests through a pair of proxies, outbound and inbound, over mutual TLS.

mod support;

use support::*;
use weft_ir::{Mode, Protocol, Routing};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// A client pod, a server pod, and the application behind it.
struct Pair {
    client: Pod,
    server: Pod,
    app: Upstream,
    /// Where the client's application connects to.
    front: std::net::SocketAddr,
    /// Where the server's proxy listens.
    back: std::net::SocketAddr,
}

impl Pair {
    async fn start(speaks: Speaks, protocol: Protocol) -> Self {
        let pki = Pki::new().unwrap();
        let app = Upstream::start("v1", speaks).await.unwrap();
        let server = Pod::start(&pki, "reviews", Mode::Strict);
        let back = server.inbound(app.address());
        let client = Pod::start(&pki, "frontend", Mode::Strict);
        client.tell(vec![
            endpoints("reviews", protocol, &[meshed(back, "reviews")]),
            service(protocol, Routing::Direct(vec![to("reviews", 1)])),
        ]);
        let front = client.outbound(SERVICE.parse().unwrap());
        Self {
            client,
            server,
            app,
            front,
            back,
        }
    }

    async fn for_version(version: Version) -> (Self, Client) {
        let speaks = match version {
            Version::Http1 => Speaks::Http1,
            Version::Http2 => Speaks::Http2,
        };
        let pair = Self::start(speaks, Protocol::Detect).await;
        let client = Client::connect(pair.front, version).await;
        (pair, client)
    }
}

#[tokio::test]
async fn a_request_arrives_in_its_own_version_over_mutual_tls() {
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        for _ in 0..3 {
            let request = http::Request::post("/a/b?c=d").header("x-own", "1");
            let seen = client.send(request, "hello").await;
            assert_eq!(seen.status, 200, "{version:?} {seen:?}");
            assert_eq!(&seen.body[..], b"hello");
            assert_eq!(seen.header("x-path"), "/a/b?c=d");
            assert_eq!(seen.header("x-saw-x-own"), "1");
            let (wanted, host) = match version {
                Version::Http1 => ("HTTP/1.1", "x-saw-host"),
                Version::Http2 => ("HTTP/2.0", "x-authority"),
            };
            assert_eq!(seen.header("x-version"), wanted);
            assert_eq!(seen.header(host), "reviews");
        }
        assert_eq!(pair.app.requests(), 3);
        assert_eq!(pair.app.connections(), 1, "connections are kept");
        let metrics = pair.server.metrics();
        assert!(
            metrics.contains(r#"weft_tls_handshakes_total{direction="inbound",result="ok"} 1"#),
            "{metrics}"
        );
        let _ = (&pair.client, pair.back);
    }
}
