//! HTTPS: accepts, shakes hands, serves, and ends gracefully. Everything a client may draw out is bounded in time,
//! and the number of clients is bounded.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::admission::{Webhook, router};
use super::certificate::Served;
use super::metrics::Metrics;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// An API server keeps its connections; it dials again when one ends.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 512;

/// Serves until `stop`, then waits at most [`DRAIN_LIMIT`] for requests that have begun.
pub(super) async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    webhook: Arc<Webhook>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let metrics = webhook.metrics.clone();
    let router = router(webhook);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(stream) = stop.run_until_cancelled(accept(&listener, &places)).await {
        let Some((stream, place)) = stream else { break };
        let watcher = graceful.watcher();
        let (acceptor, router, metrics) = (acceptor.clone(), router.clone(), metrics.clone());
        tokio::spawn(async move {
            let _place = place;
            let served = connection(stream, acceptor, router, watcher, &metrics);
            // Ended by force only when it is older than any API server needs.
            let _ = tokio::time::timeout(CONNECTION_LIMIT, served).await;
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some connections did not end in time");
    }
}

type Accepted = (TcpStream, tokio::sync::OwnedSemaphorePermit);

/// The next client, once there is a place for it; `None` when there are no more places to be had.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = places.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, place)),
            Err(error) => {
                // Out of descriptors, or a client that left while waiting; neither is helped by haste.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    metrics: &Metrics,
) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await
    else {
        metrics.handshake_failures.inc();
        return;
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(64);
    let connection = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = error.to_string(), "a connection ended early");
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
