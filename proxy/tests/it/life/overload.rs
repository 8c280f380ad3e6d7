//! Overload of a gateway: endless requests, and clients that open requests only to reset them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weft_ir::{Mode, Protocol, Routing, Serving};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

use super::soon;
use crate::support::gateway::{port, *};
use crate::support::*;

/// Idle connections that were evicted in favour of others.
const IDLE_CLOSED: &str = "weft_connections_rejected_total{listener=\"gateway\",reason=\"idle\"}";

/// Starts a gateway with changed options in front of an application.
async fn before(
    speaks: Speaks,
    with: impl FnOnce(&mut weft_proxy::options::Options),
) -> (GatewayPod, u16, Upstream) {
    let app = Upstream::start("app", speaks).await.unwrap();
    let gateway = GatewayPod::start_with(with);
    let number = free_port();
    let of = listener("http", "", vec![host("", all_to("app"))]);
    gateway.tell(vec![
        endpoints("app", Protocol::Detect, &[unmeshed(app.address())]),
        port(number, Serving::Http(vec![of])),
    ]);
    (gateway, number, app)
}

async fn connect(number: u16) -> h2::client::SendRequest<Bytes> {
    let tcp = TcpStream::connect(at(number)).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_max_send_streams(100);
    let (client, connection) = builder.handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    client
}

fn post() -> Request<()> {
    Request::post("http://shop.example/").body(()).unwrap()
}

fn line(gateway: &GatewayPod, name: &str) -> u64 {
    let metrics = gateway.metrics();
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

fn shed(gateway: &GatewayPod, limit: &str) -> u64 {
    let name = format!("weft_overload_shed_total{{error_type=\"{limit}\"}}");
    line(gateway, &name)
}

/// Starts `count` endless POSTs, each on a connection of its own; yields their final statuses.
async fn endless_posts(number: u16, count: usize) -> JoinSet<u16> {
    let mut answers = JoinSet::new();
    for _ in 0..count {
        let mut client = connect(number).await.ready().await.unwrap();
        let (answer, mut body) = client.send_request(post(), false).unwrap();
        body.send_data(vec![b'x'; 48 << 10].into(), false).unwrap();
        answers.spawn(async move {
            let status = answer.await.unwrap().status().as_u16();
            drop((client, body));
            status
        });
    }
    answers
}

#[tokio::test]
async fn endless_requests_are_limited_per_endpoint_and_in_time() {
    let (gateway, number, app) = before(Speaks::Silent, |options| {
        options.endpoint_requests = 40;
        options.body_idle = Duration::from_secs(8);
    })
    .await;
    let begun = Instant::now();
    let answers = endless_posts(number, 100).await;
    soon("excess requests are shed", || {
        shed(&gateway, "endpoint_request_limit") == 60
    })
    .await;
    assert_eq!(app.connections(), 40);
    let statuses = answers.join_all().await;
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(503), count(408)), (60, 40), "{statuses:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn memory_limit_sheds_requests_and_connections() {
    // Below what this process uses; 128 connections follow from it.
    let (gateway, number, app) = before(Speaks::Silent, |options| {
        options.memory_limit = Some(4 << 20);
        options.body_idle = Duration::from_secs(8);
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answers = endless_posts(number, 40).await;
    soon("excess requests are shed", || {
        shed(&gateway, "memory_limit") == 24
    })
    .await;
    assert_eq!(app.connections(), 16);
    let statuses = answers.join_all().await;
    assert!(statuses.contains(&503) && statuses.contains(&408));

    let mut open = Vec::new();
    for _ in 0..150 {
        open.push(TcpStream::connect(at(number)).await.unwrap());
    }
    soon("excess connections are closed", || {
        line(&gateway, IDLE_CLOSED) >= 22
    })
    .await;
}

/// Opens and resets requests until the connection closes; returns how many.
async fn open_and_reset(mut client: h2::client::SendRequest<Bytes>) -> usize {
    let mut begun = 0;
    while let Ok(mut ready) = client.clone().ready().await {
        let Ok((answer, mut body)) = ready.send_request(post(), false) else {
            break;
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
        body.send_reset(h2::Reason::CANCEL);
        drop(answer);
        begun += 1;
        assert!(begun < 1_000, "the connection stays open");
        client = ready;
    }
    begun
}

#[tokio::test]
async fn client_with_excessive_resets_is_closed() {
    let (gateway, number, _app) = before(Speaks::Silent, |_| {}).await;
    let begun = open_and_reset(connect(number).await).await;
    assert!(begun > 200, "{begun}");
    let closed = "weft_protocol_errors_total{listener=\"gateway\",error_type=\"excessive_resets\"}";
    assert_eq!(line(&gateway, closed), 1);

    // As many requests, of which a third is reset and the others are answered.
    let (gateway, number, _app) = before(Speaks::Http1, |_| {}).await;
    let mut client = Client::connect(at(number), Version::Http2).await;
    for place in 0..600 {
        let request = Request::get("/").header("host", "shop.example");
        if place % 3 == 0 {
            let slow = request.header("x-delay", "1000");
            let slow = client.send(slow, "");
            let _ = tokio::time::timeout(Duration::from_millis(2), slow).await;
        } else {
            assert_eq!(client.send(request, "").await.status, 200);
        }
    }
    assert_eq!(line(&gateway, closed), 0);
}

#[tokio::test]
async fn excessive_resets_of_pod_drain_its_connection() {
    let app = Upstream::start("app", Speaks::Silent).await.unwrap();
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    pod.tell(vec![
        endpoints("app", Protocol::Detect, &[unmeshed(app.address())]),
        service(Protocol::Http1, Routing::Direct(vec![to("app", 1)])),
    ]);
    let tcp = TcpStream::connect(pod.outbound(SERVICE.parse().unwrap()));
    let handshake = h2::client::handshake(tcp.await.unwrap());
    let (client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut client: h2::client::SendRequest<Bytes> = client.ready().await.unwrap();
    let (waits, _body) = client.send_request(post(), false).unwrap();
    open_and_reset(client).await;
    let line =
        "weft_protocol_errors_total{listener=\"outbound\",error_type=\"excessive_resets\"} 1";
    assert!(pod.metrics().contains(line), "{}", pod.metrics());
    let answered = tokio::time::timeout(Duration::from_millis(500), waits);
    assert!(answered.await.is_err(), "the pending request goes on");
}

/// Connects from another loopback address.
async fn connect_from(source: [u8; 4], number: u16) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(at(number)).await
}

/// How a client keeps a connection open without a request in flight.
#[derive(Clone, Copy, Debug)]
enum Holds {
    Nothing,
    HalfAHead,
    Http1,
    Http2,
}

/// Keeps a connection open. Errors: it was refused, or is closed.
async fn hold(how: Holds, number: u16) -> std::io::Result<TcpStream> {
    let mut stream = connect_from([127, 0, 0, 2], number).await?;
    let said: &[u8] = match how {
        Holds::Nothing => return Ok(stream),
        Holds::HalfAHead => b"GET / HTTP/1.1\r\nhost: shop.example\r\n",
        Holds::Http1 => b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        Holds::Http2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    };
    stream.write_all(said).await?;
    if !matches!(how, Holds::HalfAHead) {
        stream.read_u8().await?;
    }
    Ok(stream)
}

#[tokio::test]
async fn connection_hoarding_source_does_not_lock_out_others() {
    for how in [Holds::Nothing, Holds::HalfAHead, Holds::Http1, Holds::Http2] {
        // A limit of 128 connections. The process uses more than that memory, and still a minimum
        // of requests is admitted.
        let (gateway, number, _app) = before(Speaks::Http1, |options| {
            options.memory_limit = Some(4 << 20);
        })
        .await;
        let mut held = Vec::new();
        for _ in 0..200 {
            held.extend(hold(how, number).await.ok());
        }
        for _ in 0..20 {
            let stream = connect_from([127, 0, 0, 1], number).await.unwrap();
            let mut client = Client::over(stream, Version::Http1).await;
            let request = Request::get("/").header("host", "shop.example");
            let answer = tokio::time::timeout(Duration::from_secs(2), client.send(request, ""));
            let answer = answer.await.expect("a response in time");
            assert_eq!(answer.status, 200, "{how:?}");
        }
        // Others are refused while evicted connections have not closed yet.
        assert!(line(&gateway, IDLE_CLOSED) > 20, "{how:?}");
        drop(held);
    }
}
