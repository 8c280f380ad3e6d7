//! Bodies and streams far larger than the proxy may buffer: 128 MiB each way, 1 GiB with
//! `WEFT_SOAK=1`. In a binary of its own, and one at a time, since the memory of the whole process
//! is measured.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use weft_ir::Protocol;

/// The maximum for all buffers on the way, of both proxies and both ends.
const MAX_GROWTH: u64 = 24 << 20;
const PART: usize = 1 << 20;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn length() -> u64 {
    let soak = std::env::var_os("WEFT_SOAK").is_some_and(|value| value == "1");
    if soak { 1 << 30 } else { 128 << 20 }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A body generated on demand, of unknown length, so that nothing can preallocate.
struct Flood {
    left: u64,
    part: Bytes,
}

impl Flood {
    fn new(length: u64) -> Self {
        Self {
            left: length,
            part: vec![7; PART].into(),
        }
    }
}

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let part = self.part.slice(..self.left.min(PART as u64) as usize);
        self.left -= part.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Reads to the end; returns the length, and the maximum of resident memory meanwhile.
async fn drained(mut body: Incoming) -> (u64, u64) {
    let (mut total, mut peak) = (0, 0);
    let mut sampled = 0;
    while let Some(frame) = body.frame().await {
        total += frame
            .unwrap()
            .data_ref()
            .map_or(0, |data| data.len() as u64);
        if total - sampled > 4 << 20 {
            sampled = total;
            peak = peak.max(resident_bytes());
        }
    }
    (total, peak)
}

/// Reads the whole request, then sends as many bytes back.
async fn echo_length(
    request: Request<Incoming>,
) -> Result<http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let (total, peak) = drained(request.into_body()).await;
    let answer = http::Response::builder()
        .header("x-total", total)
        .header("x-peak", peak);
    Ok(answer.body(Flood::new(total).boxed()).unwrap())
}

async fn serve(stream: TcpStream, version: Version) {
    let service = service_fn(echo_length);
    let io = TokioIo::new(stream);
    let _ = match version {
        Version::Http1 => {
            let server = hyper::server::conn::http1::Builder::new();
            server.serve_connection(io, service).await
        }
        Version::Http2 => {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.serve_connection(io, service).await
        }
    };
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Flood>),
    Http2(hyper::client::conn::http2::SendRequest<Flood>),
}

impl Sender {
    async fn new(stream: TcpStream, version: Version) -> Self {
        let io = TokioIo::new(stream);
        match version {
            Version::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Version::Http2 => {
                let executor = TokioExecutor::new();
                let handshake = hyper::client::conn::http2::handshake(executor, io).await;
                let (sender, connection) = handshake.unwrap();
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        }
    }

    /// Returns the length of the response, and the maximum of resident memory meanwhile.
    async fn send(&mut self, length: u64) -> (u64, u64) {
        let request = Request::post("http://reviews/").header("host", "reviews");
        let request = request.body(Flood::new(length)).unwrap();
        let response = match self {
            Self::Http1(sender) => sender.send_request(request).await.unwrap(),
            Self::Http2(sender) => sender.send_request(request).await.unwrap(),
        };
        let said = |name: &str| -> u64 {
            let value = response.headers()[name].to_str().unwrap();
            value.parse().unwrap()
        };
        let (arrived, peak) = (said("x-total"), said("x-peak"));
        assert_eq!(arrived, length, "the request is complete");
        let (back, peak_back) = drained(response.into_body()).await;
        (back, peak.max(peak_back))
    }
}

#[tokio::test]
async fn large_http_bodies_use_constant_memory() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for version in BOTH {
        let proxies =
            Proxies::serving(Protocol::Detect, move |stream| serve(stream, version)).await;
        let mut sender = Sender::new(proxies.connect().await, version).await;
        // The first bytes allocate the buffers.
        sender.send(4 * PART as u64).await;
        let before = resident_bytes();
        let begun = Instant::now();
        let (back, peak) = sender.send(length()).await;
        assert_eq!(back, length(), "{version:?}: the response is complete");
        let grown = peak.saturating_sub(before);
        println!(
            "{version:?}: {} MiB each way in {:?}, {} KiB more",
            length() >> 20,
            begun.elapsed(),
            grown >> 10
        );
        assert!(grown < MAX_GROWTH, "{version:?}: {grown} bytes more");
        proxies.encrypted();
    }
}

#[tokio::test]
async fn large_tcp_stream_uses_constant_memory() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let proxies = Proxies::serving(Protocol::Tcp, |mut stream| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await;
    let mut stream = proxies.connect().await;
    let mut part = vec![1; PART];
    let (mut from, mut to) = stream.split();
    // The first bytes allocate the buffers.
    let (sent, ()) = tokio::join!(to.write_all(&part), async {
        let mut back = vec![0; PART];
        from.read_exact(&mut back).await.unwrap();
    });
    sent.unwrap();
    let before = resident_bytes();
    let begun = Instant::now();
    let sent = async {
        let mut left = length();
        while left > 0 {
            to.write_all(&part).await.unwrap();
            left -= PART as u64;
        }
        part.clear();
        to.shutdown().await.unwrap();
    };
    let received = async {
        let (mut total, mut peak, mut sampled) = (0, 0, 0);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer).await.unwrap() {
                0 => return (total, peak),
                length => total += length as u64,
            }
            if total - sampled > 4 << 20 {
                sampled = total;
                peak = peak.max(resident_bytes());
            }
        }
    };
    let ((), (total, peak)) = tokio::join!(sent, received);
    assert_eq!(total, length());
    let grown = peak.saturating_sub(before);
    println!(
        "bytes: {} MiB each way in {:?}, {} KiB more",
        length() >> 20,
        begun.elapsed(),
        grown >> 10
    );
    assert!(grown < MAX_GROWTH, "{grown} bytes more");
}
