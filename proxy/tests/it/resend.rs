//! Requests that an HTTP/2 server did not process are retried elsewhere, with their body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_ir::{Mode, Protocol, Routing};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// How a server refuses a stream (RFC 9113, 8.7).
#[derive(Clone, Copy, Debug)]
enum Refuses {
    /// RST_STREAM with REFUSED_STREAM.
    Reset,
    /// GOAWAY with last stream 0.
    GoAway,
}

/// An HTTP/2 server that reads each request to its end and refuses it.
async fn refusing(how: Refuses) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = counter.clone();
            // Returns when the client closes the connection.
            tokio::spawn(async move { refuse(stream, how, &counter).await.ok() });
        }
    });
    (address, count)
}

fn frame(kind: u8, stream: u32, payload: &[u32]) -> Vec<u8> {
    let length = u32::try_from(payload.len() * 4).unwrap();
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, 0]);
    frame.extend(stream.to_be_bytes());
    payload
        .iter()
        .for_each(|word| frame.extend(word.to_be_bytes()));
    frame
}

async fn refuse(mut stream: TcpStream, how: Refuses, count: &AtomicUsize) -> std::io::Result<()> {
    stream.write_all(&frame(4, 0, &[])).await?;
    stream.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == HEADERS {
            // A window for any body of these tests.
            stream.write_all(&frame(8, 0, &[1 << 20])).await?;
            stream.write_all(&frame(8, id, &[1 << 20])).await?;
        }
        if matches!(head[3], 0 | HEADERS) && head[4] & END_STREAM != 0 {
            count.fetch_add(1, Ordering::Relaxed);
            let answer = match how {
                Refuses::Reset => frame(3, id, &[7]),
                Refuses::GoAway => frame(7, 0, &[0, 0]),
            };
            stream.write_all(&answer).await?;
        }
    }
}

async fn client_of(addresses: &[SocketAddr]) -> (Pod, Client) {
    let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
    let all: Vec<_> = addresses.iter().map(|one| unmeshed(*one)).collect();
    pod.tell(vec![
        endpoints("reviews", Protocol::Http2, &all),
        service(Protocol::Http2, Routing::Direct(vec![to("reviews", 1)])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let client = Client::connect(front, Version::Http2).await;
    (pod, client)
}

#[tokio::test]
async fn unprocessed_post_is_retried_on_another_endpoint() {
    for how in [Refuses::Reset, Refuses::GoAway] {
        let app = Upstream::start("v1", Speaks::Http2).await.unwrap();
        let (bad, refused) = refusing(how).await;
        let (_pod, mut client) = client_of(&[bad, app.address()]).await;
        let body = "x".repeat(60 << 10);
        let mut sent = 0;
        while refused.load(Ordering::Relaxed) == 0 {
            assert!(sent < 200, "{how:?}: the endpoint was never tried");
            let seen = client.send(http::Request::post("/"), body.clone()).await;
            assert_eq!(seen.status, 200, "{how:?}: {:?}", seen.headers);
            assert_eq!(seen.body.len(), body.len());
            sent += 1;
        }
        assert_eq!(
            refused.load(Ordering::Relaxed),
            1,
            "{how:?}: the endpoint is not tried again"
        );
        assert_eq!(app.requests(), sent);
    }
}

#[tokio::test]
async fn post_exceeding_replay_buffer_is_not_retried() {
    for how in [Refuses::Reset, Refuses::GoAway] {
        let (bad, refused) = refusing(how).await;
        let (_pod, mut client) = client_of(&[bad]).await;
        let body = "x".repeat(100 << 10);
        let seen = client.send(http::Request::post("/"), body).await;
        assert_eq!(seen.status, 502, "{how:?}: {:?}", seen.headers);
        assert_eq!(refused.load(Ordering::Relaxed), 1, "{how:?}");
    }
}

#[tokio::test]
async fn repeated_refusal_ends_with_502() {
    for how in [Refuses::Reset, Refuses::GoAway] {
        let (bad, refused) = refusing(how).await;
        let (_pod, mut client) = client_of(&[bad]).await;
        let seen = client.get("/").await;
        assert_eq!(seen.status, 502, "{how:?}: {:?}", seen.headers);
        let attempts = refused.load(Ordering::Relaxed);
        assert!((2..=5).contains(&attempts), "{how:?}: {attempts} attempts");
    }
}
