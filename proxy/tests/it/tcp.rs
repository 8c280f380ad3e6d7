//! Opaque TCP through a pair of proxies: routed by weight and by SNI, half-closed, idle.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::Lines;
use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_ir::{
    Backend, ConnectionRule, Mode, Protocol, RouteId, RouteKind, Routing, TlsRule, WeightedBackend,
};
use weft_proxy::options::AccessLogLevel;
use weft_proxy::telemetry::access::AccessLog;
use weft_testkit::pki::Pki;

/// A server that sends its name on connect, then echoes.
async fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await.unwrap();
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

fn connections(kind: RouteKind, name: &str, backends: Vec<WeightedBackend>) -> ConnectionRule {
    ConnectionRule {
        route: RouteId {
            kind,
            namespace: "shop".into(),
            name: name.into(),
        },
        index: 0,
        name: None,
        backends,
    }
}

fn by_name(name: &str, hostnames: &[&str]) -> TlsRule {
    TlsRule {
        hostnames: hostnames.iter().map(|host| host.parse().unwrap()).collect(),
        rule: connections(RouteKind::Tls, name, vec![to(name, 1)]),
    }
}

/// A client in the mesh, and servers behind a proxy each.
struct Mesh {
    client: Pod,
    _servers: Vec<Pod>,
    front: SocketAddr,
    /// Where the last server's proxy listens.
    back: SocketAddr,
}

impl Mesh {
    async fn start(names: &[&'static str], protocol: Protocol, routing: Routing) -> Self {
        Self::logged(names, protocol, routing, AccessLog::off()).await
    }

    async fn logged(
        names: &[&'static str],
        protocol: Protocol,
        routing: Routing,
        log: AccessLog,
    ) -> Self {
        let pki = Pki::new().unwrap();
        let client = Pod::start_logged(&pki, "frontend", Mode::Strict, log);
        let mut resources = vec![service(protocol, routing)];
        let mut servers = Vec::new();
        let mut last = SERVICE.parse().unwrap();
        for name in names {
            let server = Pod::start(&pki, name, Mode::Strict);
            let back = server.inbound(named(name).await);
            resources.push(endpoints(name, protocol, &[meshed(back, name)]));
            last = back;
            servers.push(server);
        }
        client.tell(resources);
        let front = client.outbound(SERVICE.parse().unwrap());
        Self {
            client,
            _servers: servers,
            front,
            back: last,
        }
    }

    /// Sends `bytes` and half-closes; returns what is received.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.front).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back).await;
        String::from_utf8_lossy(&back).into_owned()
    }

    async fn metric(&self, line: &str) {
        // A connection is counted shortly after its client has seen its end.
        let found = || self.client.metrics().lines().any(|found| found == line);
        for _ in 0..200 {
            if found() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{line}\n{}", self.client.metrics());
    }
}

#[tokio::test]
async fn tcp_connections_follow_weights() {
    let backends = vec![to("a", 80), to("b", 20), to("c", 0)];
    let rule = connections(RouteKind::Tcp, "split", backends);
    // A TCPRoute makes the port opaque, whatever its declared protocol.
    for protocol in [Protocol::Detect, Protocol::Tcp, Protocol::Http1] {
        let routing = Routing::Tcp(rule.clone());
        let mesh = Mesh::start(&["a", "b", "c"], protocol, routing).await;
        let mut seen: HashMap<String, u32> = HashMap::new();
        for _ in 0..200 {
            *seen.entry(mesh.say(b"!").await).or_default() += 1;
        }
        let count = |name: &str| seen.get(name).copied().unwrap_or_default();
        assert_eq!(count("a!") + count("b!"), 200, "{seen:?}");
        // Six standard deviations of 200 draws at 20 %.
        assert!((6..=74).contains(&count("b!")), "{seen:?}");
        let labels = concat!(
            r#"direction="outbound","#,
            r#"parent_kind="Service",parent_namespace="shop",parent_name="reviews",parent_port="80","#,
            r#"route_kind="TCPRoute",route_namespace="shop",route_name="split",rule="0","#,
            r#"backend_kind="Service",backend_namespace="shop",backend_name="b",backend_port="80""#,
        );
        let b = count("b!");
        mesh.metric(&format!(
            r#"weft_opaque_connections_total{{{labels},result="ok"}} {b}"#
        ))
        .await;
        mesh.metric(&format!(
            r#"weft_opaque_bytes_total{{{labels},way="to_client"}} {}"#,
            2 * b
        ))
        .await;
    }
}

#[tokio::test]
async fn tcp_route_serves_server_first_and_treats_http_as_opaque() {
    let rule = connections(RouteKind::Tcp, "all", vec![to("a", 1)]);
    let mesh = Mesh::start(&["a"], Protocol::Detect, Routing::Tcp(rule)).await;
    let mut stream = TcpStream::connect(mesh.front).await.unwrap();
    let mut name = [0; 1];
    stream.read_exact(&mut name).await.unwrap();
    assert_eq!(&name, b"a");
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(mesh.say(request).await.as_bytes()[1..], request[..]);
}

#[tokio::test]
async fn tcp_route_to_invalid_backend_closes_connection() {
    let nowhere = WeightedBackend {
        weight: 1,
        backend: Backend::Invalid("there is no Service shop/x".into()),
        filters: Vec::new(),
    };
    for (backends, reason) in [
        (vec![nowhere], "invalid_configuration"),
        (vec![], "invalid_configuration"),
        (vec![to("empty", 1)], "no_endpoints"),
    ] {
        let rule = connections(RouteKind::Tcp, "gone", backends);
        let mesh = Mesh::start(&[], Protocol::Detect, Routing::Tcp(rule)).await;
        assert_eq!(mesh.say(b"!").await, "");
        mesh.metric(&format!(
            r#"weft_protocol_errors_total{{listener="outbound",error_type="{reason}"}} 1"#
        ))
        .await;
    }
}

/// The ClientHello of a client with SNI `name`, in records of `fragment` bytes.
fn client_hello(name: &str, fragment: Option<usize>) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.max_fragment_size = fragment;
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn tls_rules() -> Routing {
    Routing::Tls(vec![
        by_name("wild", &["*.example.com"]),
        by_name("exact", &["a.example.com"]),
        by_name("deep", &["*.b.example.com"]),
    ])
}

const NAMES: [&str; 3] = ["wild", "exact", "deep"];

#[tokio::test]
async fn tls_route_matches_sni_and_passes_client_hello_unchanged() {
    for protocol in [Protocol::Detect, Protocol::Tls] {
        let mesh = Mesh::start(&NAMES, protocol, tls_rules()).await;
        for (name, taken) in [
            ("a.example.com", "exact"),
            ("c.example.com", "wild"),
            ("c.d.example.com", "wild"),
            ("b.example.com", "wild"),
            ("c.b.example.com", "deep"),
        ] {
            for fragment in [None, Some(64)] {
                let hello = client_hello(name, fragment);
                let mut stream = TcpStream::connect(mesh.front).await.unwrap();
                stream.set_nodelay(true).unwrap();
                for part in hello.chunks(97) {
                    stream.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                stream.shutdown().await.unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).await.unwrap();
                let expected = [taken.as_bytes(), &hello].concat();
                assert!(back == expected, "{name} {fragment:?}");
            }
        }
    }
}

#[tokio::test]
async fn unmatched_sni_is_closed_and_counted() {
    let mesh = Mesh::start(&NAMES, Protocol::Tls, tls_rules()).await;
    let hello = |name: &str| client_hello(name, None);
    for (bytes, reason) in [
        (hello("example.com"), "no_route"),
        (hello("a.example.org"), "no_route"),
        // An IP address is not sent as SNI.
        (hello("10.0.0.1"), "no_route"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not_tls"),
        (
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff".to_vec(),
            "not_tls",
        ),
        (hello("a.example.com")[..50].to_vec(), "not_tls"),
    ] {
        let count = || {
            let metrics = mesh.client.metrics();
            let label = format!(r#"error_type="{reason}""#);
            let mut lines = metrics.lines();
            let line = lines.find(|line| line.contains("protocol_errors") && line.contains(&label));
            line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
        };
        let before: u32 = count();
        assert_eq!(mesh.say(&bytes).await, "");
        while count() != before + 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // A rule without hostnames matches every connection.
    mesh.client.tell(vec![service(
        Protocol::Tls,
        Routing::Tls(vec![by_name("exact", &[])]),
    )]);
    assert!(mesh.say(&hello("10.0.0.1")).await.starts_with("exact"));
}

#[tokio::test]
async fn opaque_tcp_bypasses_http_routes_unless_port_is_http() {
    for (protocol, served) in [(Protocol::Detect, true), (Protocol::Http1, false)] {
        let routing = Routing::Http(vec![rule(0, vec![to("other", 1)]).into()]);
        let mesh = Mesh::start(&["reviews", "other"], protocol, routing).await;
        let back = mesh.say(b"\x00\x01").await;
        if served {
            assert_eq!(back, "reviews\x00\x01");
            // A server-first protocol as well.
            let mut stream = TcpStream::connect(mesh.front).await.unwrap();
            let mut greeting = [0; 7];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"reviews");
        } else {
            assert_eq!(back, "");
            let line = r#"weft_protocol_errors_total{listener="outbound",error_type="not_http"} 1"#;
            mesh.metric(line).await;
        }
    }
}

/// Opens a connection through both proxies; returns its two ends.
async fn ends() -> (Proxies, TcpStream, TcpStream) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let proxies = Proxies::before(listener.local_addr().unwrap(), Protocol::Tcp);
    let near = proxies.connect().await;
    let (far, _) = listener.accept().await.unwrap();
    (proxies, near, far)
}

#[tokio::test]
async fn half_close_passes_through_both_proxies() {
    for client_ends_first in [true, false] {
        let (_pods, near, far) = ends().await;
        let (mut first, mut second) = match client_ends_first {
            true => (near, far),
            false => (far, near),
        };
        first.write_all(b"all I say").await.unwrap();
        first.shutdown().await.unwrap();
        let mut said = String::new();
        second.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "all I say", "the half-close passed");
        // More than all buffers on the way hold.
        let long = vec![7; 8 << 20];
        let sent = async {
            for part in long.chunks(1 << 20) {
                second.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            second.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (read, ()) = tokio::join!(first.read_to_end(&mut back), sent);
        read.unwrap();
        assert!(back == long, "{} of {} bytes", back.len(), long.len());
    }
}

#[tokio::test]
async fn idle_tcp_connection_is_kept_for_days() {
    let (_pods, mut near, mut far) = ends().await;
    let mut byte = [0];
    near.write_all(b"a").await.unwrap();
    far.read_exact(&mut byte).await.unwrap();
    tokio::time::pause();
    for _ in 0..72 {
        tokio::time::advance(Duration::from_secs(3_600)).await;
    }
    tokio::time::resume();
    far.write_all(b"b").await.unwrap();
    near.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b");
    near.write_all(b"c").await.unwrap();
    far.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"c");
}

#[tokio::test]
async fn access_log_records_each_connection() {
    let lines = Lines::default();
    let start = |level| AccessLog::start(level, lines.clone(), Default::default()).unwrap();
    let (log, _writer) = start(AccessLogLevel::All);
    let mesh = Mesh::logged(&NAMES, Protocol::Tls, tls_rules(), log).await;
    let hello = client_hello("a.example.com", None);
    mesh.say(&hello).await;
    let line = lines.line(0).await;
    for (field, value) in [
        ("direction", "outbound"),
        ("client_id", "spiffe://cluster.local/ns/shop/sa/frontend"),
        ("server_id", "spiffe://cluster.local/ns/shop/sa/exact"),
        ("protocol", "tls"),
        ("server_name", "a.example.com"),
        ("route", "TLSRoute shop/exact"),
        ("rule", "0"),
        ("backend", "shop/exact:80"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["bytes_in"], hello.len(), "{line}");
    assert_eq!(line["bytes_out"], hello.len() + 5, "{line}");
    assert!(line["endpoint"].is_string() && line["error"].is_null());
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);

    mesh.say(&client_hello("example.org", None)).await;
    let line = lines.line(1).await;
    assert_eq!(line["server_name"], "example.org");
    assert_eq!(line["error_type"], "no_route");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("the client names example.org"), "{line}");
    assert!(line["route"].is_null() && line["endpoint"].is_null());
}

#[tokio::test]
async fn tcp_keepalive_is_enabled_on_both_sides() {
    let rule = connections(RouteKind::Tcp, "all", vec![to("a", 1)]);
    let mesh = Mesh::start(&["a"], Protocol::Tcp, Routing::Tcp(rule)).await;
    let stream = TcpStream::connect(mesh.front).await.unwrap();
    let near = stream.local_addr().unwrap();
    // Timer 2 of /proc/net/tcp is keepalive; the remaining time is in hundredths of a second.
    let timer_towards = |remote: SocketAddr| {
        let remote = format!("0100007F:{:04X}", remote.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut rows = table
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>());
        // Established: an earlier connection of the same port can still wait for its end.
        let row = rows.find(|row| row[2] == remote && row[3] == "01");
        row.map_or_else(String::new, |row| row[5].to_owned())
    };
    for (side, remote) in [("accepted", near), ("opened", mesh.back)] {
        let mut timer = String::new();
        // A connection may be absent yet, or have another timer for as long as something is not
        // acknowledged.
        let seen = async {
            while !timer.starts_with("02:") {
                tokio::time::sleep(Duration::from_millis(5)).await;
                timer = timer_towards(remote);
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), seen).await;
        let ticks = timer.strip_prefix("02:").expect(side);
        let ticks = u64::from_str_radix(ticks, 16).unwrap();
        assert!(ticks <= 12_000, "{side}: {timer}");
    }
}
