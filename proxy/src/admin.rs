//! `/metrics` on one port; `/ready`, `/drain` and the pod's TCP probes on another. Nothing here
//! changes anything, but that `/drain` has the controller asked whether this pod ends (see
//! [`Withdrawal`]).

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use weft_accept::Protected;
pub use weft_accept::bind;
use weft_accept::pages::{self, MetricsPage, Pages, text};
use weft_process::Exposition;

use crate::control::store::Store;
use crate::control::withdrawal::{DrainLimits, Withdrawal};
use crate::drain::Shutdown;
use crate::options::RunMode;
use crate::probe::TcpProbes;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;

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
    pub limits: DrainLimits,
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
    Metrics(MetricsPage),
    Ready(Readiness),
}

impl Page {
    pub fn metrics(metrics: Arc<Metrics>) -> Self {
        let exposition = Exposition::new(move |page| metrics.write(page));
        Self::Metrics(MetricsPage(Arc::new(exposition)))
    }

    fn listener(&self) -> &'static str {
        match self {
            Self::Metrics(_) => "metrics",
            Self::Ready(_) => "ready",
        }
    }
}

impl Pages for Page {
    fn has(&self, path: &str) -> Result<(), &'static str> {
        match self {
            Self::Metrics(page) => page.has(path),
            Self::Ready(readiness) => match path {
                "/ready" | "/drain" => Ok(()),
                _ if readiness.probes.port(path).is_some() => Ok(()),
                _ => Err("only /ready, /drain and the pod's own TCP probes are here\n"),
            },
        }
    }

    async fn answer(&self, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        match self {
            Self::Metrics(page) => page.answer(path, headers).await,
            Self::Ready(readiness) if path == "/drain" => {
                let senders = readiness.shutdown.peers();
                let drained = readiness.withdrawal.drain(readiness.limits, senders);
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
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn probe_page(readiness: &Readiness, port: u16) -> Response<Full<Bytes>> {
    match readiness.probes.check(port).await {
        Ok(()) => text(StatusCode::OK, "open\n"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// Serves one port until dropped.
pub async fn serve(
    listener: TcpListener,
    page: Page,
    metrics: &Metrics,
    protected: &Protected,
) -> Infallible {
    pages::serve(
        listener,
        page.listener(),
        &metrics.rejected,
        protected,
        page,
    )
    .await
}
