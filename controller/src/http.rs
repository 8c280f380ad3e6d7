//! Two small HTTP servers: `/metrics` for whoever scrapes, `/ready` for the kubelet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::snapshot::Snapshots;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens; where IPv6 is off, the IPv6 wildcard means the IPv4 one.
pub async fn listen(on: SocketAddr) -> io::Result<TcpListener> {
    let any = on.ip().is_unspecified() && on.is_ipv6();
    match TcpListener::bind(on).await {
        Err(error) if any && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, on.port())).await
        }
        bound => bound,
    }
}

/// `/metrics`.
pub fn metrics(registry: Arc<Registry>) -> Router {
    let page = async move || {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new().route("/metrics", get(page))
}

/// `/ready`: 200 once every kind has been listed and translated, 503 before that and while stopping.
pub fn ready(snapshots: Snapshots, stop: CancellationToken) -> Router {
    let page = async move || {
        if stop.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        } else if snapshots.borrow().is_none() {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the cluster has not been seen whole yet\n",
            )
        } else {
            (StatusCode::OK, "ready\n")
        }
    };
    Router::new().route("/ready", get(page))
}

/// Serves until told to stop.
pub async fn serve(
    listener: TcpListener,
    pages: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, pages)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
