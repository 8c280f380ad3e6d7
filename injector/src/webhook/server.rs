//! HTTPS: accepts, shakes hands, serves, and ends gracefully. Everything a client may draw out is bounded in time, and
//! of too many clients the one that has asked for nothing the longest gives way: anybody may dial this port, and API servers
//! have to get through.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};
use weft_accept::{Activity, Bounds, Place, Pool, Port, Protected};

use super::admission::{Webhook, router};
use super::certificate::Served;
use super::metrics::Metrics;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// A connection without requests is told to go after this: an API server dials again.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// The longest that an API server may be told to wait for a webhook.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// Connections that are told to go have this long for their requests, each and all together.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Connections that have not sent a request.
const UNFINISHED: Bounds = Bounds {
    total: 512,
    per_source: 32,
    protected: 32,
};
/// Those that have; the longest unused gives way.
const USED: Bounds = Bounds {
    total: 512,
    per_source: 64,
    protected: 64,
};

/// Requests of a connection at a time. An API server opens another connection for more.
const STREAMS: u32 = 8;

/// Bytes; the body of nearly every pod is smaller. A larger one, or one of unknown length, needs a place of its own, so that
/// bodies take a bounded share of memory together: [`STREAMS`] small ones a connection, and the large ones that [`LARGE`]
/// permits.
const SMALL_BODY: u64 = 64 * 1024;
const LARGE: Bounds = Bounds {
    total: 24,
    per_source: 16,
    protected: 16,
};

/// Serves until `stop`, then waits at most [`DRAIN_LIMIT`] for requests that have begun.
pub(super) async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    webhook: Arc<Webhook>,
    stop: CancellationToken,
) {
    let metrics = webhook.metrics.clone();
    let port = Port::new("webhook", &metrics.rejected);
    let unfinished = Pool::new(&port, UNFINISHED, &Protected::default());
    let server = Arc::new(Server {
        acceptor: TlsAcceptor::from(Arc::new(tls)),
        router: router(webhook),
        used: Pool::new(&port, USED, &Protected::default()),
        large: Pool::new(&port, LARGE, &Protected::default()),
        metrics,
        stop: stop.clone(),
    });
    let connections = TaskTracker::new();
    let serve = |stream: TcpStream, client: SocketAddr| {
        let place = unfinished.enter(client.ip());
        let (lost, server) = (place.token().clone(), server.clone());
        connections.spawn(async move {
            // Ended by force only when it is older than any API server needs, or another needs its place.
            let served = timeout(CONNECTION_LIMIT, server.connection(stream, place));
            lost.run_until_cancelled(served).await;
        });
    };
    let pools = [&unfinished, &server.used];
    stop.run_until_cancelled(weft_accept::accept(&listener, &port, &pools, serve))
        .await;
    drop(listener);
    connections.close();
    if timeout(DRAIN_LIMIT, connections.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
}

struct Server {
    acceptor: TlsAcceptor,
    router: Router,
    used: Pool,
    /// Requests whose bodies are large.
    large: Pool,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

/// One connection, as its requests use it.
struct Used {
    place: Place,
    activity: Activity,
}

/// A request that has not ended.
struct Request(Arc<Used>);

impl Request {
    fn begin(of: &Arc<Used>, pool: &Pool) -> Self {
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
        match timeout(HANDSHAKE_LIMIT, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.requests(stream, place).await,
            _ => {
                self.metrics.handshake_failures.inc();
            }
        }
    }

    async fn requests(&self, stream: TlsStream<TcpStream>, place: Place) {
        let of = Arc::new(Used {
            place,
            activity: Activity::default(),
        });
        let (router, used, connection) = (self.router.clone(), self.used.clone(), of.clone());
        let large = self.large.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let begun = Request::begin(&connection, &used);
            let place = is_large(&request).then(|| large.enter(connection.place.source()));
            let answer = timeout(REQUEST_LIMIT, router.clone().oneshot(request));
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
            .header_read_timeout(HEADER_LIMIT)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .max_concurrent_streams(STREAMS);
        let stream = TokioIo::new(stream);
        let served = builder.serve_connection(stream, TowerToHyperService::new(service));
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => Some(ended),
            () = of.activity.idle(IDLE_LIMIT) => None,
            () = self.stop.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                served.as_mut().graceful_shutdown();
                timeout(DRAIN_LIMIT, served).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = error.to_string(), "a connection ended early");
        }
    }
}

fn is_large(request: &http::Request<Incoming>) -> bool {
    let size = request.body().size_hint().upper();
    size.is_none_or(|bytes| bytes > SMALL_BODY)
}

/// `None`: another request needed the place.
async fn within<F: Future>(place: Option<&Place>, answer: F) -> Option<F::Output> {
    match place {
        Some(place) => place.token().run_until_cancelled(answer).await,
        None => Some(answer.await),
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
pub(super) fn tls(served: Arc<Served>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(served);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests;
