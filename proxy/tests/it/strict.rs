//! Strict mode: only the kubelet's probes are admitted in plain text, and a change of mode needs no
//! restart.

use std::net::SocketAddr;

use crate::support::*;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weft_api::encode;
use weft_ir::{Destination, Mode, Probe, ProbeRequest, Protocol, Target, Workload};
use weft_proxy::options::{MtlsOutbound, ProbeSources};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

const PLAIN_TEXT: &str =
    r#"weft_protocol_errors_total{listener="inbound",error_type="plaintext_refused"}"#;

/// A strict pod with these probes of its application at `app`.
fn strict(app: SocketAddr, probes: &[ProbeRequest]) -> Pod {
    let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Strict);
    let probe = |asks: &ProbeRequest| Probe {
        port: app.port(),
        asks: asks.clone(),
    };
    let workload = Workload {
        probes: probes.iter().map(probe).collect(),
        ..Workload::new(pod.identity.clone(), Mode::Strict)
    };
    pod.tell(vec![encode::workload(&workload)]);
    pod
}

fn refused(pod: &Pod) -> u64 {
    let metrics = pod.metrics();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(PLAIN_TEXT));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

/// Waits for the count, which follows the close of the connection.
async fn until_refused(pod: &Pod, count: u64) {
    let wait = async {
        while refused(pod) < count {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(5), wait).await;
    assert_eq!((waited.is_ok(), refused(pod)), (true, count));
}

/// Returns true if a request in plain text gets a response.
async fn answers(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back).await;
    !back.is_empty()
}

#[tokio::test]
async fn only_declared_http_probe_is_admitted_in_plaintext() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let pod = strict(
        app.address(),
        &[ProbeRequest::Get("/healthz?full=1".into())],
    );
    let back = pod.inbound(app.address());
    // On one connection: each request is checked.
    let mut kubelet = Client::connect(back, Version::Http1).await;
    for (path, method, code) in [
        ("/healthz?full=1", "GET", 200),
        ("/healthz", "GET", 403),
        ("/", "GET", 403),
        ("/healthz?full=1", "POST", 403),
        ("/healthz?full=1", "GET", 200),
    ] {
        let request = Request::builder().method(method).uri(path);
        assert_eq!(
            kubelet.send(request, "").await.status,
            code,
            "{method} {path}"
        );
    }
    let upgrade = Request::get("/healthz?full=1")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let mut other = Client::connect(back, Version::Http1).await;
    assert_eq!(other.send(upgrade, "").await.status, 403);
    assert_eq!((app.requests(), refused(&pod)), (2, 4));
}

#[tokio::test]
async fn probe_with_body_is_refused_in_plaintext() {
    for (version, speaks) in [
        (Version::Http1, Speaks::Http1),
        (Version::Http2, Speaks::Http2),
    ] {
        let app = Upstream::start("v1", speaks).await.unwrap();
        let pod = strict(app.address(), &[ProbeRequest::Get("/healthz".into())]);
        let back = pod.inbound(app.address());
        for (body, code) in [("", 200), ("body", 403)] {
            let mut kubelet = Client::connect(back, version).await;
            let seen = kubelet.send(Request::get("/healthz"), body).await;
            assert_eq!(seen.status, code, "{version:?} {body:?}");
        }
        assert_eq!((app.requests(), refused(&pod)), (1, 1));
    }
}

#[tokio::test]
async fn only_grpc_health_check_is_admitted_in_plaintext() {
    let app = Upstream::start("v1", Speaks::Http2).await.unwrap();
    let pod = strict(app.address(), &[ProbeRequest::GrpcHealth]);
    let mut kubelet = Client::connect(pod.inbound(app.address()), Version::Http2).await;
    let call = |path| Request::post(path).header("content-type", "application/grpc");
    let seen = kubelet.send(call("/grpc.health.v1.Health/Check"), "").await;
    assert_eq!((seen.status, seen.header("x-upstream")), (200, "v1"));
    let seen = kubelet.send(call("/shop.Orders/List"), "").await;
    assert_eq!((seen.status, seen.header("grpc-status")), (200, "7"));
    assert_eq!((app.requests(), refused(&pod)), (1, 1));
}

/// A strict pod that serves probes of its node, and of these networks. `node`: the node's addresses
/// as the controller knows them.
fn strict_for_node(app: SocketAddr, asks: ProbeRequest, node: &[&str], networks: &[&str]) -> Pod {
    let pod = Pod::start_with(&Pki::new().unwrap(), "reviews", Mode::Strict, |options| {
        options.probe_sources = ProbeSources::Node;
        options.probe_networks = networks.iter().map(|text| text.parse().unwrap()).collect();
    });
    let port = app.port();
    let workload = Workload {
        probes: vec![Probe { port, asks }],
        host_ips: node.iter().map(|text| text.parse().unwrap()).collect(),
        ..Workload::new(pod.identity.clone(), Mode::Strict)
    };
    pod.tell(vec![encode::workload(&workload)]);
    pod
}

/// A client at this address of loopback.
async fn client_from(source: &str, to: SocketAddr, version: Version) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    Client::over(socket.connect(to).await.unwrap(), version).await
}

#[tokio::test]
async fn probe_is_admitted_from_node_only() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let get = || ProbeRequest::Get("/healthz".into());
    for (node, networks, source, code) in [
        (&["127.0.0.3"][..], &[][..], "127.0.0.3", 200),
        (&["2001:db8::7", "127.0.0.3"], &[], "127.0.0.3", 200),
        (&["127.0.0.3"], &[], "127.0.0.2", 403),
        (&["127.0.0.3"], &["127.0.0.2/31"], "127.0.0.2", 200),
        (&["127.0.0.3"], &["0.0.0.0/0"], "127.0.0.2", 200),
        (&["127.0.0.3"], &["::/0"], "127.0.0.2", 403),
        // Loopback; and an older controller, which does not say where the node is.
        (&["192.0.2.7"], &[], "127.0.0.1", 200),
        (&[], &[], "127.0.0.2", 200),
    ] {
        let pod = strict_for_node(app.address(), get(), node, networks);
        let back = pod.inbound(app.address());
        let mut client = client_from(source, back, Version::Http1).await;
        let request = Request::get("/healthz").header("host", "any.example.com");
        let seen = client.send(request, "").await;
        assert_eq!(seen.status, code, "{node:?} {networks:?} {source}");
        let words = format!("a probe from {source}, which is not the pod's node");
        let is_named = seen.header("weft-error").starts_with(&words);
        assert_eq!(is_named, code == 403);
        let refusals = if code == 403 { 1 } else { 0 };
        assert_eq!(refused(&pod), refusals);
        // Whatever is no probe is refused from everywhere.
        assert_eq!(client.get("/").await.status, 403);
        let head = client.send(Request::head("/healthz"), "").await;
        assert_eq!(head.status, 403);
    }
    let pod = strict(app.address(), &[get()]);
    let mut other = client_from("127.0.0.2", pod.inbound(app.address()), Version::Http1).await;
    assert_eq!(other.get("/healthz").await.status, 200, "by default");
}

#[tokio::test]
async fn grpc_health_check_is_admitted_from_node_only() {
    let app = Upstream::start("v1", Speaks::Http2).await.unwrap();
    let node = ["127.0.0.3"];
    let pod = strict_for_node(app.address(), ProbeRequest::GrpcHealth, &node, &[]);
    let back = pod.inbound(app.address());
    for (source, status) in [("127.0.0.3", ""), ("127.0.0.2", "7")] {
        let mut client = client_from(source, back, Version::Http2).await;
        let call = Request::post("/grpc.health.v1.Health/Check");
        let call = call.header("content-type", "application/grpc");
        let seen = client.send(call, "").await;
        assert_eq!((seen.status, seen.header("grpc-status")), (200, status));
    }
    assert_eq!((app.requests(), refused(&pod)), (1, 1));
}

#[tokio::test]
async fn plaintext_on_other_ports_and_protocols_is_refused() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let pod = strict(elsewhere, &[ProbeRequest::Get("/".into())]);
    let back = pod.inbound(app.address());
    assert!(!answers(back).await);
    until_refused(&pod, 1).await;

    let pod = strict(app.address(), &[ProbeRequest::Get("/".into())]);
    let back = pod.inbound(app.address());
    let mut silent = TcpStream::connect(back).await.unwrap();
    silent.shutdown().await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    let mut bytes = TcpStream::connect(back).await.unwrap();
    bytes
        .write_all(b"\x00\x01 neither HTTP nor TLS")
        .await
        .unwrap();
    bytes.shutdown().await.unwrap();
    let _ = bytes.read_to_end(&mut Vec::new()).await;
    // Only this connection counts: the silent one before it is no error.
    until_refused(&pod, 1).await;
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn single_port_has_its_own_mode() {
    for (pod, of_port, plain) in [
        (Mode::Strict, Mode::Permissive, true),
        (Mode::Permissive, Mode::Strict, false),
    ] {
        let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
        let mut workload = Workload::new(pair.server.identity.clone(), pod);
        let other = pair.app.address().port() ^ 1;
        for (port, expected) in [(pair.app.address().port(), plain), (other, !plain)] {
            workload.port_modes = [(port, of_port)].into();
            pair.server.tell(vec![encode::workload(&workload)]);
            assert_eq!(answers(pair.back).await, expected, "{pod:?} {of_port:?}");
        }
    }
}

#[tokio::test]
async fn mode_change_applies_to_next_connection() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let mut meshed = Client::connect(pair.front, Version::Http1).await;
    for (mode, plain) in [
        (Mode::Permissive, true),
        (Mode::Strict, false),
        (Mode::Permissive, true),
    ] {
        let workload = Workload::new(pair.server.identity.clone(), mode);
        pair.server.tell(vec![encode::workload(&workload)]);
        assert_eq!(answers(pair.back).await, plain, "{mode:?}");
        assert_eq!(meshed.get("/").await.status, 200, "{mode:?}");
    }
}

#[tokio::test]
async fn connection_to_foreign_address_is_closed() {
    let pki = Pki::new().unwrap();
    let app = Upstream::start("reviews", Speaks::Http1).await.unwrap();
    let near = app.address();
    let own = vec![near.ip()];
    let pod = Pod::start_at(own, &pki, "reviews", Mode::Permissive);
    let elsewhere = vec!["192.0.2.7".parse().unwrap()];
    let other = Pod::start_at(elsewhere, &pki, "reviews", Mode::Permissive);
    for (pod, served) in [(&pod, true), (&other, false)] {
        let at = pod.inbound(near);
        let mut tcp = tokio::net::TcpStream::connect(at).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let _ = tcp.write_all(request).await;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), served, "{answer:?}");
    }
    let metrics = other.metrics();
    let counted = r#"weft_protocol_errors_total{listener="inbound",error_type="not_redirected"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

/// A permissive pod with `MtlsOutbound::Required`, in a cluster of these address ranges.
fn required(ranges: &[&str]) -> Pod {
    let pki = Pki::new().unwrap();
    Pod::start_with(&pki, "front", Mode::Permissive, |options| {
        options.mtls_outbound = MtlsOutbound::Required;
        options.cluster_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    })
}

#[tokio::test]
async fn required_outbound_mtls_refuses_unknown_destination_in_cluster() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let unknown = Destination {
        address: app.address(),
        target: Target::Unknown,
    };
    // First without a controller, then with one that says that the destination is unknown.
    for (ranges, passes_without_controller, passes_unknown) in [
        (&[][..], false, true),
        (&["127.0.0.0/8"][..], false, false),
        (&["10.0.0.0/8"][..], true, true),
    ] {
        let pod = required(ranges);
        let front = pod.outbound(app.address());
        assert_eq!(
            answers(front).await,
            passes_without_controller,
            "{ranges:?}"
        );
        pod.tell(vec![encode::destination(&unknown)]);
        assert_eq!(answers(front).await, passes_unknown, "{ranges:?}");
    }
    let permissive = Pod::start(&Pki::new().unwrap(), "front", Mode::Permissive);
    assert!(answers(permissive.outbound(app.address())).await);
}
