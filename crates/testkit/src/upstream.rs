//! Test applications: HTTP/1.1, HTTP/2 without TLS, gRPC, opaque TCP.
//!
//! An HTTP upstream responds with the request's body and reports the request in headers:
//! `x-upstream` (its name), `x-method`, `x-path`, `x-version`, and each request header as
//! `x-saw-<name>`. Request headers control the response: `x-answer` (status code), `x-delay`
//! (milliseconds before the response), `x-grpc-status` (a trailer).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The protocol of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    /// HTTP/2 by prior knowledge, including gRPC.
    Http2,
    /// Echoes what it receives.
    Echo,
    /// Sends `hello\n` first, then echoes what it receives.
    First,
    /// Accepts connections and never sends anything.
    Silent,
}

/// A running upstream; dropping it closes its connections and its port.
pub struct Upstream {
    address: SocketAddr,
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Upstream {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(name: &str, speaks: Speaks) -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?, name, speaks).await
    }

    pub async fn start_at(address: SocketAddr, name: &str, speaks: Speaks) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let counts = Arc::<Counts>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, name.into(), speaks, counts.clone()));
        Ok(Self {
            address,
            counts,
            tasks,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of connections accepted since the start.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Returns the number of HTTP requests received since the start.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Closes every connection and the port, and returns once it is closed.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: TcpListener, name: Arc<str>, speaks: Speaks, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let _ = tcp.set_nodelay(true);
        let (name, counts) = (name.clone(), counts.clone());
        connections.spawn(async move {
            // The test checks how its connections end.
            let _ = match speaks {
                Speaks::Http1 | Speaks::Http2 => serve_http(tcp, speaks, name, counts).await,
                Speaks::Echo => echo(tcp, b"").await,
                Speaks::First => echo(tcp, b"hello\n").await,
                Speaks::Silent => {
                    let _open = tcp;
                    std::future::pending().await
                }
            };
        });
    }
}

async fn echo(mut tcp: TcpStream, greeting: &[u8]) -> Result<()> {
    tcp.write_all(greeting).await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tcp.read(&mut buffer).await?;
        if read == 0 {
            tcp.shutdown().await?;
            return Ok(());
        }
        tcp.write_all(&buffer[..read]).await?;
    }
}

async fn serve_http(
    tcp: TcpStream,
    speaks: Speaks,
    name: Arc<str>,
    counts: Arc<Counts>,
) -> Result<()> {
    let service = service_fn(move |request| {
        counts.requests.fetch_add(1, Ordering::SeqCst);
        answer(name.clone(), request)
    });
    let io = TokioIo::new(tcp);
    match speaks {
        Speaks::Http2 => {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.serve_connection(io, service).await?;
        }
        _ => {
            let server = hyper::server::conn::http1::Builder::new();
            server.serve_connection(io, service).await?;
        }
    }
    Ok(())
}

async fn answer(
    name: Arc<str>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    let (head, body) = request.into_parts();
    if let Some(delay) = number(&head.headers, "x-delay") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let grpc = head
        .headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let status = number(&head.headers, "x-grpc-status").unwrap_or(0);
    let trailers = grpc
        .then(|| HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status.into())]));
    let body = match trailers {
        Some(trailers) => body
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed(),
        None => body.boxed(),
    };
    let mut response = Response::new(body);
    let code = number(&head.headers, "x-answer").and_then(|code| u16::try_from(code).ok());
    if let Some(Ok(code)) = code.map(StatusCode::from_u16) {
        *response.status_mut() = code;
    }
    describe(&name, &head, response.headers_mut());
    Ok(response)
}

fn describe(name: &str, request: &http::request::Parts, headers: &mut HeaderMap) {
    let path = request
        .uri
        .path_and_query()
        .map_or("", |path| path.as_str());
    let version = format!("{:?}", request.version);
    let authority = request.uri.authority().map(|a| a.as_str());
    for (name, value) in [
        ("x-upstream", name),
        ("x-method", request.method.as_str()),
        ("x-path", path),
        ("x-version", &version),
        ("x-authority", authority.unwrap_or_default()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some(kind) = request.headers.get("content-type") {
        headers.insert("content-type", kind.clone());
    }
    for (name, value) in &request.headers {
        if let Ok(name) = HeaderName::try_from(format!("x-saw-{name}")) {
            headers.append(name, value.clone());
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Returns a request body.
pub fn body(text: &'static str) -> Full<Bytes> {
    Full::new(Bytes::from_static(text.as_bytes()))
}
