//! Two HTTP servers: `/metrics` for scrapes, `/ready` for the kubelet.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body_util::Full;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_accept::Protected;
use weft_accept::pages::{self, MetricsPage, Pages, text};
use weft_process::Exposition;

/// `/metrics`.
pub fn metrics(registry: Registry) -> MetricsPage {
    let write = move |page: &mut String| prometheus_client::encoding::text::encode(page, &registry);
    MetricsPage(Arc::new(Exposition::new(write)))
}

/// `/ready`: 200 once every kind has been listed and translated, 503 before that and while
/// stopping.
pub struct Ready<T> {
    /// The latest translation; `None` before the first.
    pub latest: watch::Receiver<Option<T>>,
    pub stop: CancellationToken,
}

impl<T> Clone for Ready<T> {
    fn clone(&self) -> Self {
        Self {
            latest: self.latest.clone(),
            stop: self.stop.clone(),
        }
    }
}

impl<T: Send + Sync + 'static> Pages for Ready<T> {
    fn has(&self, path: &str) -> Result<(), &'static str> {
        match path {
            "/ready" => Ok(()),
            _ => Err("this port serves /ready only\n"),
        }
    }

    async fn answer(&self, _: &str, _: &HeaderMap) -> Response<Full<Bytes>> {
        if self.stop.is_cancelled() {
            text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        } else if self.latest.borrow().is_none() {
            let words = "the initial lists of the cluster have not completed yet\n";
            text(StatusCode::SERVICE_UNAVAILABLE, words)
        } else {
            text(StatusCode::OK, "ready\n")
        }
    }
}

/// Serves until `stop`.
pub async fn serve<P: Pages>(
    listener: TcpListener,
    name: &'static str,
    pages: P,
    metrics: weft_accept::Metrics,
    protected: Protected,
    stop: CancellationToken,
) {
    let serving = pages::serve(listener, name, &metrics, &protected, pages);
    stop.run_until_cancelled(serving).await;
}
