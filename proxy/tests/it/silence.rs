//! Endpoints that fall silent because their node is gone or they hang. In real time, since the
//! kernel's timers take part.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;
use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use weft_ir::{Mode, Protocol, Routing};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// Relays bytes while `open` is true, and holds them back otherwise.
async fn relay(
    ip: IpAddr,
    target: SocketAddr,
    open: watch::Receiver<bool>,
    held: watch::Sender<usize>,
) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(target).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::spawn(pass(near_read, far_write, open.clone(), held.clone()));
            tokio::spawn(pass(far_read, near_write, open.clone(), held.clone()));
        }
    });
    address
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
    held: watch::Sender<usize>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if !*open.borrow() {
            held.send_modify(|held| *held += length);
        }
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

struct Server {
    app: Upstream,
    address: SocketAddr,
    /// Where its proxy listens, behind the relay.
    inbound: SocketAddr,
    open: watch::Sender<bool>,
    /// The bytes that the relay has held back.
    held: watch::Receiver<usize>,
    _pod: Pod,
}

impl Server {
    /// Has an address of its own, as pods do: liveness is per pod, not per port.
    async fn start(pki: &Pki, name: &str, ip: [u8; 4], speaks: Speaks) -> Self {
        let app = Upstream::start(name, speaks).await.unwrap();
        let pod = Pod::start(pki, "reviews", Mode::Strict);
        let (open, opened) = watch::channel(true);
        let inbound = pod.inbound(app.address());
        let (holds, held) = watch::channel(0);
        let address = relay(ip.into(), inbound, opened, holds).await;
        Self {
            app,
            address,
            inbound,
            open,
            held,
            _pod: pod,
        }
    }
}

/// Two servers, and a client of both.
async fn shop(version: Version) -> (Server, Server, Pod, SocketAddr) {
    let (speaks, protocol) = match version {
        Version::Http1 => (Speaks::Http1, Protocol::Http1),
        Version::Http2 => (Speaks::Http2, Protocol::Http2),
    };
    let pki = Pki::new().unwrap();
    let (a, b) = (
        Server::start(&pki, "a", [127, 0, 0, 2], speaks).await,
        Server::start(&pki, "b", [127, 0, 0, 3], speaks).await,
    );
    let client = Pod::start(&pki, "frontend", Mode::Strict);
    let both = [meshed(a.address, "reviews"), meshed(b.address, "reviews")];
    client.tell(vec![
        endpoints("reviews", protocol, &both),
        service(protocol, Routing::Direct(vec![to("reviews", 1)])),
    ]);
    let front = client.outbound(SERVICE.parse().unwrap());
    (a, b, client, front)
}

/// Sends concurrent requests on connections of their own, which take `delay` ms; returns how many
/// were answered within `limit`.
async fn answered(front: SocketAddr, count: usize, delay: u32, limit: Duration) -> usize {
    let one = || async {
        let mut client = Client::connect(front, Version::Http1).await;
        let request = http::Request::get("/").header("x-delay", delay);
        let seen = timeout(limit, client.send(request, "")).await;
        seen.is_ok_and(|seen| seen.status == 200)
    };
    let all = join_all((0..count).map(|_| one())).await;
    all.into_iter().filter(|answered| *answered).count()
}

const SOON: Duration = Duration::from_millis(800);

#[tokio::test]
async fn silent_pod_gets_no_new_requests() {
    // Shorter than a silent endpoint's connection lives, which ends after 13 s: requests that hang
    // on it take that long.
    const LIMIT: Duration = Duration::from_secs(9);
    let (mut a, b, _client, front) = shop(Version::Http1).await;
    assert_eq!(answered(front, 40, 20, LIMIT).await, 40);
    assert!(a.app.requests() > 0 && b.app.requests() > 0);
    a.open.send_replace(false);
    // Some of these go to the silent endpoint.
    let hung = tokio::spawn(answered(front, 20, 0, Duration::from_secs(30)));
    let hangs = a.held.wait_for(|held| *held > 0);
    timeout(LIMIT, hangs).await.unwrap().unwrap();
    sleep(Duration::from_millis(1_200)).await;
    // More concurrent requests than hang, so that load balancing alone would not avoid the
    // endpoint.
    for _ in 0..3 {
        assert_eq!(answered(front, 60, 50, LIMIT).await, 60);
    }
    a.open.send_replace(true);
    assert_eq!(
        hung.await.unwrap(),
        20,
        "hung requests are late and not lost"
    );
    // Its latency estimate is still high, so only many concurrent requests make it worth picking.
    let before = a.app.requests();
    assert_eq!(answered(front, 100, 100, LIMIT).await, 100);
    assert!(a.app.requests() > before, "the endpoint is used again");
}

#[tokio::test]
async fn slow_application_is_not_silent() {
    let (a, b, _client, front) = shop(Version::Http1).await;
    let slow = tokio::spawn(answered(front, 20, 2_500, Duration::from_secs(5)));
    sleep(Duration::from_millis(1_800)).await;
    let before = (a.app.requests(), b.app.requests());
    assert_eq!(before.0 + before.1, 20);
    assert_eq!(answered(front, 40, 20, SOON).await, 40);
    let after = (a.app.requests(), b.app.requests());
    assert!(
        before.0 < after.0 && before.1 < after.1,
        "{before:?} {after:?}"
    );
    assert_eq!(slow.await.unwrap(), 20);
}

/// Counts descriptors of connections from or to a port of this process.
fn descriptors(from: Option<u16>, to: Option<u16>) -> usize {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let tables = tables.map(|table| std::fs::read_to_string(table).unwrap());
    let is = |address: &str, port: Option<u16>| {
        let hex = address.rsplit(':').next().unwrap();
        port.is_none_or(|port| u16::from_str_radix(hex, 16).unwrap() == port)
    };
    let counts = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // State 0A is LISTEN; a socket without inode belongs to no descriptor any more.
        is(fields[1], from) && is(fields[2], to) && fields[3] != "0A" && fields[9] != "0"
    };
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.filter(counts).count()
}

/// The relay keeps its sockets open: to each proxy the other one has vanished.
#[tokio::test]
async fn connections_to_vanished_peer_are_closed() {
    const NOTICED: Duration = Duration::from_secs(15);
    let (a, _b, client, front) = shop(Version::Http2).await;
    let ask = async |limit| {
        let mut client = Client::connect(front, Version::Http2).await;
        let seen = timeout(limit, client.get("/")).await;
        seen.is_ok_and(|seen| seen.status == 200)
    };
    let ask_all = async |limit| {
        let all = join_all((0..40).map(|_| ask(limit))).await;
        all.into_iter().filter(|answered| *answered).count()
    };
    assert_eq!(ask_all(SOON).await, 40);
    let held = || {
        let of_client = descriptors(None, Some(a.address.port()));
        (of_client, descriptors(Some(a.inbound.port()), None))
    };
    let before = held();
    assert!(before.0 > 0 && before.1 > 0, "{before:?}");
    a.open.send_replace(false);
    // Some requests hang until their clients give up.
    assert!(ask_all(SOON).await < 40);
    let begun = Instant::now();
    while held() != (0, 0) && begun.elapsed() < NOTICED {
        sleep(Duration::from_millis(100)).await;
    }
    let seconds = begun.elapsed();
    assert_eq!(
        held(),
        (0, 0),
        "{before:?}, after {seconds:.1?}: {}",
        client.metrics()
    );
}

/// An HTTP/2 server that never responds and counts the PINGs that it gets.
async fn unresponsive_server() -> (SocketAddr, Arc<AtomicUsize>) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: u8 = 6;
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let pings = Arc::new(AtomicUsize::new(0));
    let counter = pings.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&SETTINGS).await.unwrap();
        stream.read_exact(&mut [0; 24]).await.unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let payload = &mut vec![0; length as usize];
            stream.read_exact(payload).await.unwrap();
            counter.fetch_add(usize::from(head[3] == PING), Ordering::Relaxed);
        }
    });
    (address, pings)
}

/// grpc-go closes connections with more than one PING per five minutes.
#[tokio::test]
async fn application_gets_no_http2_pings() {
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    let (address, pings) = unresponsive_server().await;
    pod.tell(vec![
        endpoints("reviews", Protocol::Http2, &[unmeshed(address)]),
        service(Protocol::Http2, Routing::Direct(vec![to("reviews", 1)])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let mut client = Client::connect(front, Version::Http2).await;
    let waited = timeout(Duration::from_secs(2), client.get("/")).await;
    assert!(waited.is_err(), "the server never responds");
    assert_eq!(pings.load(Ordering::Relaxed), 0);
}
