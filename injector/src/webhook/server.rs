//! The HTTPS server: handshakes, requests and graceful shutdown. Every step of a client is bounded
//! in time. Beyond a maximum number of connections, the one that has been idle for longest is
//! closed: anybody can dial this port, and API servers must be served.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};
use weft_accept::{Activity, Bounds, Place, Pool, Port, Protected, Throttle};

use super::admission::{Webhook, router};
use super::certificate::ServedCertificate;
use super::clients::ClientAuthority;
use super::metrics::Metrics;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may have no request before it is shut down gracefully: an API server
/// connects again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum timeout of a webhook in Kubernetes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);
/// How long a connection, and all connections at shutdown, may take to complete requests in
/// progress.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections without a request yet.
const WAITING: Bounds = Bounds {
    total: 512,
    per_source: 32,
    protected: 32,
};
/// Connections with requests; beyond the maximum the longest idle one is closed.
const ACTIVE: Bounds = Bounds {
    total: 512,
    per_source: 64,
    protected: 64,
};

/// Concurrent requests of a connection. An API server opens another connection for more.
const STREAMS: u32 = 8;

/// The maximum size of a small body in bytes; nearly every pod is smaller. Larger bodies, and those
/// of unknown length, are limited by [`LARGE_BODIES`], so that all bodies together take a bounded
/// part of memory: [`STREAMS`] small ones for each connection, and the large ones.
const SMALL_BODY: u64 = 64 * 1024;
const LARGE_BODIES: Bounds = Bounds {
    total: 24,
    per_source: 16,
    protected: 16,
};

/// Log lines about failed handshakes, which every client can cause: a burst, then one per interval.
const LOG_BURST: u32 = 10;
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Serves until `stop`, then waits at most [`DRAIN_TIMEOUT`] for requests in progress.
pub(super) async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    webhook: Arc<Webhook>,
    stop: CancellationToken,
) {
    let metrics = webhook.metrics.clone();
    let port = Port::new("webhook", &metrics.rejected);
    let waiting = Pool::new(&port, WAITING, &Protected::default());
    let server = Arc::new(Server {
        acceptor: TlsAcceptor::from(Arc::new(tls)),
        router: router(webhook),
        active: Pool::new(&port, ACTIVE, &Protected::default()),
        large: Pool::new(&port, LARGE_BODIES, &Protected::default()),
        metrics,
        log_throttle: Throttle::new(LOG_BURST, LOG_INTERVAL),
        stop: stop.clone(),
    });
    let connections = TaskTracker::new();
    let serve = |stream: TcpStream, client: SocketAddr| {
        let place = waiting.enter(client.ip());
        let (lost, server) = (place.token().clone(), server.clone());
        connections.spawn(async move {
            // Closed without grace only at its maximum age, or when another connection takes its
            // place.
            let served = timeout(MAX_CONNECTION_AGE, server.connection(stream, place));
            lost.run_until_cancelled(served).await;
        });
    };
    let pools = [&waiting, &server.active];
    stop.run_until_cancelled(weft_accept::accept(&listener, &port, &pools, serve))
        .await;
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time: closing them");
    }
}

struct Server {
    acceptor: TlsAcceptor,
    router: Router,
    active: Pool,
    /// Requests with large bodies.
    large: Pool,
    metrics: Arc<Metrics>,
    log_throttle: Throttle,
    stop: CancellationToken,
}

/// The state of a connection that its requests share.
struct ConnectionState {
    place: Place,
    activity: Activity,
}

/// A request in progress.
struct Request(Arc<ConnectionState>);

impl Request {
    fn begin(of: &Arc<ConnectionState>, pool: &Pool) -> Self {
        match of.activity.now().begun {
            0 => of.place.move_to(pool),
            _ => of.place.renew(),
        }
        of.activity.begin();
        Self(of.clone())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.activity.end();
    }
}

impl Server {
    async fn connection(&self, stream: TcpStream, place: Place) {
        match timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.requests(stream, place).await,
            failed => {
                self.metrics.handshake_failures.inc();
                // Not those who merely connect, such as the kubelet with its probe.
                if let Ok(Err(error)) = failed
                    && error.kind() == std::io::ErrorKind::InvalidData
                    && let Some(unlogged) = self.log_throttle.pass()
                {
                    let client = place.source();
                    tracing::info!(%client, %error, unlogged, "TLS handshake failed");
                }
            }
        }
    }

    async fn requests(&self, stream: TlsStream<TcpStream>, place: Place) {
        let of = Arc::new(ConnectionState {
            place,
            activity: Activity::default(),
        });
        let (router, active, connection) = (self.router.clone(), self.active.clone(), of.clone());
        let large = self.large.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let begun = Request::begin(&connection, &active);
            let place = is_large(&request).then(|| large.enter(connection.place.source()));
            let answer = timeout(REQUEST_TIMEOUT, router.clone().oneshot(request));
            async move {
                let answer: Result<Response, _> = match within(place.as_ref(), answer).await {
                    Some(Ok(answer)) => answer,
                    Some(Err(_)) => Ok(StatusCode::REQUEST_TIMEOUT.into_response()),
                    None => Ok(StatusCode::SERVICE_UNAVAILABLE.into_response()),
                };
                drop((begun, place));
                answer
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .max_concurrent_streams(STREAMS);
        let stream = TokioIo::new(stream);
        let served = builder.serve_connection(stream, TowerToHyperService::new(service));
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => Some(ended),
            () = of.activity.idle(IDLE_TIMEOUT) => None,
            () = self.stop.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                served.as_mut().graceful_shutdown();
                timeout(DRAIN_TIMEOUT, served).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = error.to_string(), "connection failed");
        }
    }
}

fn is_large(request: &http::Request<Incoming>) -> bool {
    let size = request.body().size_hint().upper();
    size.is_none_or(|bytes| bytes > SMALL_BODY)
}

/// Returns `None` if another request has taken the place.
async fn within<F: Future>(place: Option<&Place>, answer: F) -> Option<F::Output> {
    match place {
        Some(place) => place.token().run_until_cancelled(answer).await,
        None => Some(answer.await),
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1; if `clients` is given, only for clients with its
/// certificates.
pub(super) fn tls(
    served: Arc<ServedCertificate>,
    clients: Option<Arc<ClientAuthority>>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifies = clients.is_some();
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(served);
    if verifies {
        // A resumed session would skip the verification of the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests;
