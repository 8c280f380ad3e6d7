//! Metrics and readiness over plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::certificate::Served;
use super::metrics::Metrics;

#[derive(Clone)]
pub(super) struct Plain {
    pub(super) metrics: Arc<Metrics>,
    pub(super) certificate: Arc<Served>,
}

impl Plain {
    /// Serves `/metrics` on one listener and `/ready` on the other until `stop`.
    pub(super) async fn serve(
        self,
        metrics: TcpListener,
        ready: TcpListener,
        stop: CancellationToken,
    ) {
        let metrics_router = Router::new()
            .route("/metrics", get(text))
            .with_state(self.clone());
        let ready_router = Router::new()
            .route("/ready", get(readiness))
            .with_state(self);
        let serve = |listener, router: Router, stop: CancellationToken| async move {
            let served =
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "metrics or readiness are no longer served");
            }
        };
        tokio::join!(
            serve(metrics, metrics_router, stop.clone()),
            serve(ready, ready_router, stop)
        );
    }
}

async fn text(State(plain): State<Plain>) -> Response {
    match plain.metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Ready means: a certificate that the API server has been told to trust is being served.
async fn readiness(State(plain): State<Plain>) -> (StatusCode, &'static str) {
    if plain.certificate.is_set() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the caBundle of the webhook is not yet in place\n",
        )
    }
}
