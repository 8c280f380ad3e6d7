//! UDP ports of a gateway: sessions, their endpoints, limits and responses.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use arc_swap::ArcSwapOption;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_ir::{Endpoint, Mode, Protocol, RouteId, RouteKind};
use weft_proxy::listen::udp::{self, Limits, WatchedRule};
use weft_proxy::routing::destination::{ResolvedBackend, ResolvedRule};
use weft_proxy::telemetry::labels::{BackendRef, Direction, RequestLabels, Route};
use weft_proxy::upstream::Cluster;
use weft_testkit::pki::Pki;

/// Ample for loopback on a loaded machine.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the tests wait for a datagram that must not arrive.
const NOTHING: Duration = Duration::from_millis(200);

/// A UDP port with its rule.
struct Port {
    pod: Pod,
    address: SocketAddr,
    rule: WatchedRule,
    served: JoinHandle<()>,
}

impl Port {
    async fn start(limits: Limits) -> Self {
        let pod = Pod::start(&Pki::new().unwrap(), "gateway", Mode::Permissive);
        let socket = UdpSocket::bind(ANY).await.unwrap();
        let address = socket.local_addr().unwrap();
        let rule = WatchedRule::new(ArcSwapOption::empty());
        let served = udp::serve(
            pod.context.clone(),
            socket,
            rule.clone(),
            udp::Scope {
                port: address.port(),
                listener: "dns".into(),
            },
            limits,
        );
        Self {
            address,
            rule,
            served: tokio::spawn(served),
            pod,
        }
    }

    fn cluster(&self, name: &str, endpoints: &[SocketAddr]) -> Arc<Cluster> {
        let cluster = Cluster::new(name.into(), self.pod.context.upstream.clone());
        set(&cluster, endpoints);
        cluster
    }

    fn route(&self, backends: &[(&Arc<Cluster>, u32)]) {
        let id = RouteId {
            kind: RouteKind::Udp,
            namespace: "shop".into(),
            name: "dns".into(),
        };
        let metrics = |backend| {
            self.pod.metrics.requests.get(RequestLabels {
                route: Route::Rule(id.clone(), "0".into()),
                backend,
                ..RequestLabels::of(Direction::Gateway)
            })
        };
        let service = |cluster: &Cluster| BackendRef::Service(cluster.name.parse().unwrap());
        let backend = |(cluster, weight): &(&Arc<Cluster>, u32)| ResolvedBackend {
            weight: *weight,
            target: Ok((*cluster).clone()),
            filters: Vec::new(),
            metrics: metrics(service(cluster)),
            mirrors: Vec::new(),
            external_auth: None,
            service: None,
        };
        self.rule.store(Some(Arc::new(ResolvedRule {
            backends: backends.iter().map(backend).collect(),
            total_weight: backends.iter().map(|(_, weight)| u64::from(*weight)).sum(),
            metrics: metrics(BackendRef::None),
            mirrors: Vec::new(),
            external_auth: None,
            section: None,
        })));
    }

    fn count(&self, series: &str) -> u64 {
        let metrics = self.pod.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    async fn until(&self, series: &str, count: u64) {
        let wait = async {
            while self.count(series) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(RECEIVE_TIMEOUT, wait).await;
        assert!(
            waited.is_ok(),
            "{series} is {} and not {count}",
            self.count(series)
        );
    }

    async fn client(&self) -> Client {
        let socket = UdpSocket::bind(ANY).await.unwrap();
        socket.connect(self.address).await.unwrap();
        Client(socket)
    }
}

fn set(cluster: &Arc<Cluster>, endpoints: &[SocketAddr]) {
    let endpoints: Vec<Endpoint> = endpoints.iter().copied().map(unmeshed).collect();
    cluster.set_endpoints(Protocol::Detect, &endpoints);
}

struct Client(UdpSocket);

impl Client {
    /// Sends a datagram; returns the response, if any.
    async fn ask(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        self.0.send(datagram).await.unwrap();
        self.answer(RECEIVE_TIMEOUT).await
    }

    async fn answer(&self, wait: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let length = timeout(wait, self.0.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }
}

/// A server that responds with its name and the request.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(name: u8) -> Self {
        let socket = UdpSocket::bind(ANY).await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 70_000];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let answer = [&[name], &buffer[..length]].concat();
                // The largest datagram leaves no room for the name.
                let longest = answer.len().min(65_507);
                let _ = socket.send_to(&answer[..longest], client).await;
            }
        });
        Self { address, task }
    }
}

#[tokio::test]
async fn udp_clients_get_own_answers_and_keep_their_endpoint() {
    let port = Port::start(Limits::default()).await;
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let cluster = port.cluster("shop/dns:53", &[a.address, b.address]);
    port.route(&[(&cluster, 1)]);
    let mut used = HashSet::new();
    // All stay open: a later client with the port of an earlier one would be of its session.
    let mut clients = Vec::new();
    for number in 0..50_u8 {
        let client = port.client().await;
        let first = client.ask(&[number]).await.unwrap();
        assert_eq!(first[1..], [number]);
        for more in 0..3 {
            assert_eq!(
                client.ask(&[number, more]).await.unwrap(),
                [first[0], number, more]
            );
        }
        used.insert(first[0]);
        clients.push(client);
    }
    assert_eq!(used.len(), 2, "both endpoints have sessions");
    // Empty datagrams pass too.
    assert_eq!(port.client().await.ask(b"").await.unwrap().len(), 1);
    // A datagram is counted after it was sent.
    for (series, count) in [
        ("weft_udp_sessions_total", 51),
        (r#"weft_udp_datagrams_total{way="to_server"}"#, 201),
        (r#"weft_udp_datagrams_total{way="to_client"}"#, 201),
    ] {
        port.until(series, count).await;
    }
}

#[tokio::test]
async fn udp_weights_split_clients_and_removed_backend_moves_them() {
    let port = Port::start(Limits::default()).await;
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let (old, new) = (
        port.cluster("shop/old:53", &[a.address]),
        port.cluster("shop/new:53", &[b.address]),
    );
    port.route(&[(&old, 3), (&new, 1)]);
    let mut clients = Vec::new();
    let mut on_old = 0;
    for _ in 0..200 {
        let client = port.client().await;
        on_old += usize::from(client.ask(b"x").await.unwrap()[0] == b'a');
        clients.push(client);
    }
    assert!(
        (120..180).contains(&on_old),
        "{on_old} of 200 with weight 3 of 4"
    );
    // A changed weight moves no session.
    port.route(&[(&old, 1), (&new, 3)]);
    let mut still = 0;
    for client in &clients {
        still += usize::from(client.ask(b"x").await.unwrap()[0] == b'a');
    }
    assert_eq!(still, on_old);
    // Weight 0 moves all sessions.
    port.route(&[(&old, 0), (&new, 1)]);
    for client in &clients {
        assert_eq!(client.ask(b"x").await.unwrap(), b"bx");
    }
    // Without a route, datagrams are dropped.
    port.rule.store(None);
    clients[0].0.send(b"x").await.unwrap();
    port.until(r#"weft_udp_dropped_total{error_type="no_route"}"#, 1)
        .await;
}

#[tokio::test]
async fn udp_session_moves_when_endpoint_is_removed() {
    let port = Port::start(Limits::default()).await;
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    let cluster = port.cluster("shop/dns:53", &[a.address]);
    port.route(&[(&cluster, 1)]);
    let client = port.client().await;
    assert_eq!(client.ask(b"1").await.unwrap(), b"a1");
    set(&cluster, &[a.address, b.address]);
    assert_eq!(client.ask(b"2").await.unwrap(), b"a2");
    set(&cluster, &[b.address]);
    assert_eq!(client.ask(b"3").await.unwrap(), b"b3");
    set(&cluster, &[]);
    client.0.send(b"4").await.unwrap();
    port.until(r#"weft_udp_dropped_total{error_type="no_endpoints"}"#, 1)
        .await;
    port.until("weft_udp_sessions_open", 0).await;
}

#[tokio::test]
async fn unreachable_udp_endpoint_is_ejected() {
    let port = Port::start(Limits::default()).await;
    let (a, b) = (Server::start(b'a').await, Server::start(b'b').await);
    a.task.abort();
    let _ = a.task.await;
    let cluster = port.cluster("shop/dns:53", &[a.address, b.address]);
    port.route(&[(&cluster, 1)]);
    // The first session on it loses a datagram; then the endpoint is ejected.
    let mut lost = 0;
    for _ in 0..20 {
        let client = port.client().await;
        client.0.send(b"x").await.unwrap();
        match client.answer(NOTHING).await {
            Some(answer) => assert_eq!(answer, b"bx"),
            None => {
                lost += 1;
                assert_eq!(
                    client.ask(b"y").await.unwrap(),
                    b"by",
                    "the next datagram goes elsewhere"
                );
            }
        }
    }
    assert!(lost <= 3, "{lost} of 20 went to the unreachable endpoint");
    assert_eq!(
        port.count(r#"weft_udp_dropped_total{error_type="endpoint_unreachable"}"#),
        lost
    );
}

#[tokio::test]
async fn udp_session_limit_evicts_idle_sessions() {
    let limits = Limits {
        sessions: 3,
        idle: Duration::from_secs(60),
        evictable_after: Duration::from_millis(300),
    };
    let port = Port::start(limits).await;
    let a = Server::start(b'a').await;
    let cluster = port.cluster("shop/dns:53", &[a.address]);
    port.route(&[(&cluster, 1)]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = port.client().await;
        assert!(client.ask(b"x").await.is_some());
        clients.push(client);
    }
    let late = port.client().await;
    late.0.send(b"x").await.unwrap();
    port.until(r#"weft_udp_dropped_total{error_type="session_limit"}"#, 1)
        .await;
    tokio::time::sleep(limits.evictable_after * 2).await;
    assert!(late.ask(b"x").await.is_some());
    assert_eq!(port.count("weft_udp_sessions_open"), 3);
    assert_eq!(port.count("weft_udp_sessions_total"), 4);
}

#[tokio::test]
async fn idle_udp_session_expires_and_does_not_delay_drain() {
    let limits = Limits {
        idle: Duration::from_millis(100),
        ..Limits::default()
    };
    let port = Port::start(limits).await;
    let a = Server::start(b'a').await;
    let cluster = port.cluster("shop/dns:53", &[a.address]);
    port.route(&[(&cluster, 1)]);
    let client = port.client().await;
    assert!(client.ask(b"x").await.is_some());
    port.until("weft_udp_sessions_open", 0).await;
    let counted = concat!(
        r#"weft_opaque_connections_total{direction="gateway","#,
        r#"route_kind="UDPRoute",route_namespace="shop",route_name="dns",rule="0","#,
        r#"backend_kind="Service",backend_namespace="shop",backend_name="dns",backend_port="53","#,
        r#"result="ok"}"#,
    );
    assert_eq!(port.count(counted), 1);
    port.pod.shutdown.token().cancel();
    assert!(timeout(RECEIVE_TIMEOUT, port.served).await.is_ok());
}

#[tokio::test]
async fn largest_udp_datagram_passes_whole() {
    let port = Port::start(Limits::default()).await;
    let a = Server::start(b'a').await;
    let cluster = port.cluster("shop/dns:53", &[a.address]);
    port.route(&[(&cluster, 1)]);
    let client = port.client().await;
    let longest: Vec<u8> = (0..65_507_u32).map(|at| (at % 251) as u8).collect();
    let answer = client.ask(&longest).await.unwrap();
    assert_eq!(answer[..1], *b"a");
    assert_eq!(answer[1..], longest[..65_506]);
    assert_eq!(client.ask(b"short").await.unwrap(), b"ashort");
}

#[tokio::test]
async fn udp_datagram_from_stranger_is_dropped() {
    let port = Port::start(Limits::default()).await;
    // The endpoint learns the session's address.
    let endpoint = UdpSocket::bind(ANY).await.unwrap();
    let cluster = port.cluster("shop/dns:53", &[endpoint.local_addr().unwrap()]);
    port.route(&[(&cluster, 1)]);
    let (active, silent) = (port.client().await, port.client().await);
    active.0.send(b"x").await.unwrap();
    let mut buffer = [0; 64];
    let (_, session) = endpoint.recv_from(&mut buffer).await.unwrap();
    // A datagram from another source to the session's port is dropped, and the port sends none of
    // its own.
    let stranger = UdpSocket::bind(ANY).await.unwrap();
    stranger.send_to(b"forged", session).await.unwrap();
    assert_eq!(active.answer(NOTHING).await, None);
    endpoint.send_to(b"true", session).await.unwrap();
    assert_eq!(active.answer(RECEIVE_TIMEOUT).await.unwrap(), b"true");
    assert_eq!(silent.answer(NOTHING).await, None);
}
