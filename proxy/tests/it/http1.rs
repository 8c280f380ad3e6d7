//! Features of HTTP/1.1 beyond plain request and response, byte by byte through a pair of proxies.

use std::time::Duration;

use crate::support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weft_ir::Protocol;
use weft_testkit::upstream::Speaks;

/// Awaits with a timeout, so that a hang fails the test.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, future).await.expect("in time")
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.unwrap();
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.front).await.unwrap();
    let mut asked = String::new();
    for (n, delay) in [(1, 60), (2, 0), (3, 30), (4, 0)] {
        let body = format!("body {n}");
        let length = body.len();
        asked.push_str(&format!(
            "POST /{n} HTTP/1.1\r\nhost: a\r\nx-delay: {delay}\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
    }
    stream.write_all(asked.as_bytes()).await.unwrap();
    // A half-closed client still gets all its responses.
    stream.shutdown().await.unwrap();
    let all = rest(&mut stream).await;
    let paths: Vec<&str> = all
        .lines()
        .filter_map(|line| line.strip_prefix("x-path: "))
        .collect();
    assert_eq!(paths, ["/1", "/2", "/3", "/4"], "{all}");
    for n in 1..=4 {
        assert!(all.contains(&format!("body {n}")), "{all}");
    }
    assert_eq!(pair.app.requests(), 4);
}

/// Reads a chunked body with its trailers from raw bytes.
async fn chunked(stream: &mut TcpStream) -> String {
    let mut body = String::new();
    loop {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line.push(stream.read_u8().await.unwrap() as char);
        }
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        if length == 0 {
            let mut trailers = String::from("\r\n");
            while !trailers.ends_with("\r\n\r\n") {
                trailers.push(stream.read_u8().await.unwrap() as char);
            }
            return format!("{body}|{}", trailers.trim());
        }
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        body.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
    }
}

#[tokio::test]
async fn chunks_and_trailers_are_streamed() {
    // Responds to each chunk as it arrives, so no hop may buffer the body.
    let proxies = Proxies::serving(Protocol::Detect, |mut stream| async move {
        let asked = head(&mut stream).await.to_lowercase();
        assert!(asked.contains("transfer-encoding: chunked"), "{asked}");
        assert!(asked.contains("trailer: x-sum"), "{asked}");
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-total\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut first = [0; 8];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"3\r\nabc\r\n");
        stream.write_all(b"2\r\n->\r\n").await.unwrap();
        let rest = chunked(&mut stream).await;
        assert_eq!(rest, "defg|x-sum: 7");
        stream
            .write_all(b"1\r\n!\r\n0\r\nx-total: 3\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let mut stream = proxies.connect().await;
    let ask = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\
                connection: te\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n";
    stream.write_all(ask).await.unwrap();
    let answer = soon(head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut first = [0; 7];
    soon(stream.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"2\r\n->\r\n");
    stream
        .write_all(b"4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(soon(chunked(&mut stream)).await, "!|x-total: 3");
    proxies.encrypted();
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.front).await.unwrap();
    let ask = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let interim = soon(head(&mut stream)).await;
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    stream.write_all(b"hello").await.unwrap();
    let all = rest(&mut stream).await;
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
    assert!(all.ends_with("hello"), "{all}");
}

#[tokio::test]
async fn application_may_reject_expect_100_continue() {
    let proxies = Proxies::serving(Protocol::Detect, |mut stream| async move {
        let asked = head(&mut stream).await.to_lowercase();
        assert!(asked.contains("expect: 100-continue"), "{asked}");
        let answer =
            b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let mut stream = proxies.connect().await;
    let ask =
        b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = soon(head(&mut stream)).await;
    if answer.starts_with("HTTP/1.1 100") {
        answer = soon(head(&mut stream)).await;
    }
    assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");
}

#[tokio::test]
async fn h2c_upgrade_is_ignored() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let mut stream = TcpStream::connect(pair.front).await.unwrap();
    let ask =
        b"GET /h2c HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
                http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(ask).await.unwrap();
        let answer = soon(head(&mut stream)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("x-path: /h2c"), "{answer}");
        for gone in ["x-saw-upgrade", "x-saw-http2-settings", "\r\nupgrade:"] {
            assert!(!answer.contains(gone), "{gone} in {answer}");
        }
        // An empty response of unknown length ends with an empty chunk.
        if answer.contains("chunked") {
            assert_eq!(chunked(&mut stream).await, "|");
        }
    }
}

/// A WebSocket frame (RFC 6455, 5.2), masked as a client's must be.
fn frame(opcode: u8, text: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode, masked | u8::try_from(text.len()).unwrap()];
    frame.extend(mask.iter().flatten());
    let key = mask.unwrap_or_default();
    frame.extend(text.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    frame
}

#[tokio::test]
async fn websocket_frames_pass_both_ways_until_close() {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let (text, close) = (1, 8);
    let proxies = Proxies::serving(Protocol::Detect, move |mut stream| async move {
        let asked = head(&mut stream).await;
        // Keys and extensions are end to end.
        assert!(asked.contains("dGhlIHNhbXBsZSBub25jZQ=="), "{asked}");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        // The server sends first.
        stream
            .write_all(&frame(text, b"welcome", None))
            .await
            .unwrap();
        loop {
            let mut start = [0; 2];
            stream.read_exact(&mut start).await.unwrap();
            let mut rest = vec![0; 4 + usize::from(start[1] & 0x7f)];
            stream.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest[..4], MASK);
            let said: Vec<u8> = frame(0, &rest[4..], Some(MASK))[6..].to_vec();
            stream
                .write_all(&frame(start[0] & 0xf, &said, None))
                .await
                .unwrap();
            if start[0] & 0xf == close {
                return;
            }
        }
    })
    .await;
    let mut stream = proxies.connect().await;
    let ask = b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let answer = soon(head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for kept in [
        "upgrade: websocket",
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol: chat",
    ] {
        assert!(answer.contains(kept), "{kept} is not in {answer}");
    }
    let mut exchange = async |expected: &[u8], say: Option<(u8, &[u8])>| {
        if let Some((opcode, said)) = say {
            stream
                .write_all(&frame(opcode, said, Some(MASK)))
                .await
                .unwrap();
        }
        let mut received = vec![0; expected.len()];
        soon(stream.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, expected);
    };
    exchange(&frame(text, b"welcome", None), None).await;
    for said in [&b"one"[..], b"two", b""] {
        exchange(&frame(text, said, None), Some((text, said))).await;
    }
    exchange(
        &frame(close, &[3, 0xe8], None),
        Some((close, &[3, 0xe8][..])),
    )
    .await;
    assert_eq!(rest(&mut stream).await, "");
    proxies.encrypted();
    let metrics = proxies.client.metrics();
    assert!(metrics.contains(r#"code="101""#), "{metrics}");
}

/// The proxy closes a connection that has unread bytes after its last request. Closed without
/// lingering, the kernel would send RST and discard what the client has not read of the response.
#[tokio::test]
async fn last_response_arrives_despite_unread_request_bytes() {
    let pair = Pair::start(Speaks::Http1, Protocol::Detect).await;
    let socket = TcpSocket::new_v4().unwrap();
    // Most of the response stays in the proxy's kernel until the client reads.
    socket.set_recv_buffer_size(2_048).unwrap();
    let mut stream = soon(socket.connect(pair.front)).await.unwrap();
    let body = "b".repeat(64 << 10);
    let length = body.len();
    let asked = format!(
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-delay: 50\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    soon(stream.write_all(asked.as_bytes())).await.unwrap();
    while pair.app.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let more = b"GET /more HTTP/1.1\r\nhost: a\r\n\r\n";
    soon(stream.write_all(more)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(&body), "{} bytes", answer.len());
    assert_eq!(pair.app.requests(), 1);
}
