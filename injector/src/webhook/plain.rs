//! Metrics and readiness over plain HTTP.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weft_accept::Protected;
use weft_accept::pages::{self, MetricsPage, Pages, text};
use weft_process::Exposition;

use super::certificate::ServedCertificate;
use super::metrics::Metrics;

pub(super) struct HttpPages {
    pub(super) metrics: Arc<Metrics>,
    pub(super) certificate: Arc<ServedCertificate>,
    pub(super) protected: Protected,
}

impl HttpPages {
    /// Serves `/metrics` on one listener and `/ready` on the other until `stop`.
    pub(super) async fn serve(
        self,
        metrics: TcpListener,
        ready: TcpListener,
        stop: CancellationToken,
    ) {
        let Self {
            metrics: counters,
            certificate,
            protected,
        } = self;
        let rejected = counters.rejected.clone();
        let page = Exposition::new(move |page| counters.write(page));
        let page = MetricsPage(Arc::new(page));
        let metrics = pages::serve(metrics, "metrics", &rejected, &protected, page);
        let ready = pages::serve(ready, "ready", &rejected, &protected, Ready(certificate));
        let both = async { tokio::join!(metrics, ready) };
        stop.run_until_cancelled(both).await;
    }
}

/// `/ready`: 200 once a certificate is served that the API server trusts.
#[derive(Clone)]
struct Ready(Arc<ServedCertificate>);

impl Pages for Ready {
    fn has(&self, path: &str) -> Result<(), &'static str> {
        match path {
            "/ready" => Ok(()),
            _ => Err("this port serves /ready only\n"),
        }
    }

    async fn answer(&self, _: &str, _: &HeaderMap) -> http::Response<Full<Bytes>> {
        if self.0.is_set() {
            text(StatusCode::OK, "ready\n")
        } else {
            let words = "the caBundle of the webhook is not set yet\n";
            text(StatusCode::SERVICE_UNAVAILABLE, words)
        }
    }
}
