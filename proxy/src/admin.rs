//! `/metrics` on one port; `/ready`, `/drain` and the pod's TCP probes on another. Nothing here changes anything, but that
//! `/drain` has the controller asked whether this pod ends (see [`Withdrawal`]).

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::store::Store;
use crate::config::withdrawal::{Patience, Withdrawal};
use crate::options::RunMode;
use crate::probe::TcpProbes;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;

/// Connections served at once on each port; more have to wait.
const MAX_CONNECTIONS: usize = 64;
/// A head, and a whole connection, may take this long.
const HEAD: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 16 << 10;

/// Whether the pod's application may begin.
#[derive(Clone)]
pub struct Readiness {
    pub mode: RunMode,
    pub tls: Tls,
    pub store: Store,
    pub shutdown: Shutdown,
    /// Set once the listeners are bound.
    pub listening: Arc<AtomicBool>,
    pub probes: TcpProbes,
    pub withdrawal: Withdrawal,
    pub patience: Patience,
}

/// Why the proxy is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    Draining,
    Listeners,
    Certificate,
    Configuration,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::Listeners => "the listeners are not bound yet",
            Self::Certificate => "no certificate yet: see this container's log",
            Self::Configuration => "no configuration yet: see this container's log",
        })
    }
}

impl Readiness {
    pub fn check(&self) -> Result<(), NotReady> {
        if self.shutdown.is_draining() {
            Err(NotReady::Draining)
        } else if !self.listening.load(Ordering::Acquire) {
            Err(NotReady::Listeners)
        } else if !self.tls.has_certificate() {
            Err(NotReady::Certificate)
        } else if !self.is_configured() {
            Err(NotReady::Configuration)
        } else {
            Ok(())
        }
    }

    fn is_configured(&self) -> bool {
        match self.mode {
            RunMode::Sidecar => self.store.workload().is_some(),
            RunMode::Gateway => self.store.is_open(),
        }
    }
}

/// What a port answers.
#[derive(Clone)]
pub enum Page {
    Metrics(Arc<Metrics>),
    Ready(Readiness),
}

impl Page {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let (known, ours) = match self {
            Self::Metrics(_) => (path == "/metrics", "only /metrics is here\n"),
            Self::Ready(readiness) => (
                matches!(path, "/ready" | "/drain") || readiness.probes.port(path).is_some(),
                "only /ready, /drain and the pod's own TCP probes are here\n",
            ),
        };
        if !known {
            return text(StatusCode::NOT_FOUND, ours.to_owned());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
            let allow = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allow);
            return response;
        }
        match self {
            Self::Metrics(metrics) => metrics_page(metrics),
            Self::Ready(readiness) if path == "/drain" => {
                let senders = readiness.shutdown.senders();
                let drained = readiness.withdrawal.drain(readiness.patience, senders);
                let drained = drained.await;
                tracing::info!("drain asked for: {drained}");
                text(StatusCode::OK, format!("{drained}\n"))
            }
            Self::Ready(readiness) => match readiness.probes.port(path) {
                Some(port) => probe_page(readiness, port).await,
                None => ready_page(readiness),
            },
        }
    }
}

fn ready_page(readiness: &Readiness) -> Response<Full<Bytes>> {
    match readiness.check() {
        Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn probe_page(readiness: &Readiness, port: u16) -> Response<Full<Bytes>> {
    match readiness.probes.check(port).await {
        Ok(()) => text(StatusCode::OK, "open\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn metrics_page(metrics: &Metrics) -> Response<Full<Bytes>> {
    match metrics.encode() {
        Ok(page) => {
            let mut response = text(StatusCode::OK, page);
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let kind = HeaderValue::from_static(kind);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("writing the metrics: {error}\n"),
        ),
    }
}

fn text(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Listens; where IPv6 is off and the address is `[::]`, on 0.0.0.0.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        _ => Err(error),
    }
}

/// Serves one port until dropped.
pub async fn serve(listener: TcpListener, page: Page) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!("accepting on the admin port: {error}");
                // Out of descriptors, most likely: some will be given back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let page = page.clone();
        tokio::spawn(async move {
            let _place = place;
            // Garbage and slow clients end here; there is nobody to tell.
            let _ = tokio::time::timeout(CONNECTION, connection(tcp, page)).await;
        });
    }
}

async fn connection(tcp: TcpStream, page: Page) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let page = page.clone();
        async move { Ok::<_, Infallible>(page.answer(&request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(tcp), service)
        .await
}
