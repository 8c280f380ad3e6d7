//! The webhook's server, its certificate and caBundle, and the watch of namespaces. `patch` decides
//! about pods.

mod admission;
mod certificate;
mod clients;
mod keeper;
mod metrics;
mod namespaces;
mod plain;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderValue, header};
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weft_accept::Protected;

use crate::settings::Settings;
pub use clients::Clients;
pub use keeper::Names;

/// How long connections are accepted after shutdown has begun: nodes remove this replica from the
/// Service meanwhile.
const LINGER: Duration = Duration::from_secs(5);

/// The part before the slash is the field manager of writes that name none.
const USER_AGENT: &str = concat!("weft-injector/", env!("CARGO_PKG_VERSION"));

/// The options of the webhook.
#[derive(Clone, Debug)]
pub struct Options {
    /// HTTPS, `/mutate`.
    pub listen: SocketAddr,
    /// HTTP, `/metrics`.
    pub metrics: SocketAddr,
    /// HTTP, `/ready`.
    pub ready: SocketAddr,
    /// The node's address: connections from it are never rejected on `metrics` and `ready`.
    pub host_ip: Option<IpAddr>,
    pub names: Names,
    /// The lifetime of a certificate, which is renewed at 70 %.
    pub certificate_lifetime: Duration,
    /// The clients of `/mutate`; `None`: all.
    pub clients: Option<Clients>,
    pub settings: Settings,
}

/// Serves until some seconds after `stop`, then completes the requests in progress.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let mut config = kube::Config::infer()
        .await
        .context("configuring the client of the Kubernetes API: neither a service account nor a kubeconfig was found")?;
    let agent = HeaderValue::from_static(USER_AGENT);
    config.headers.push((header::USER_AGENT, agent));
    let client = Client::try_from(config).context("creating the client of the Kubernetes API")?;
    let metrics = Arc::new(metrics::Metrics::default());
    let certificate = Arc::new(certificate::ServedCertificate::default());

    let clients = options.clients.map(clients::ClientAuthority::read);
    let clients = clients.transpose()?.map(Arc::new);
    let tls = server::tls(certificate.clone(), clients.clone()).context("configuring TLS")?;
    let https = bind(options.listen).await?;
    let plain = plain::HttpPages {
        metrics: metrics.clone(),
        certificate: certificate.clone(),
        protected: Protected::of_node(options.host_ip),
    };
    let metrics_http = bind(options.metrics).await?;
    let ready_http = bind(options.ready).await?;

    let (namespaces, namespace_writer) = namespaces::Namespaces::new(client.clone());
    let keeper = keeper::Keeper::new(
        client,
        options.names,
        options.certificate_lifetime,
        certificate.clone(),
        metrics.clone(),
    );
    let webhook = Arc::new(admission::Webhook {
        settings: options.settings,
        namespaces: namespaces.clone(),
        metrics: metrics.clone(),
    });
    tracing::info!(address = %options.listen, "serving the webhook");
    // These end by themselves at `stop`; the server is awaited, because it has requests in
    // progress.
    let background = tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::join!(
                namespaces.watch(namespace_writer, stop.clone()),
                keeper.keep(stop.clone()),
                async {
                    if let Some(clients) = clients {
                        clients.follow(&metrics, stop.clone()).await;
                    }
                },
                plain.serve(metrics_http, ready_http, stop.clone()),
            )
        }
    });
    let close = CancellationToken::new();
    tokio::join!(server::serve(https, tls, webhook, close.clone()), async {
        stop.cancelled().await;
        tokio::time::sleep(LINGER).await;
        close.cancel();
    });
    background
        .await
        .context("a background task of the webhook panicked")?;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = weft_accept::bind(address).await;
    bound.with_context(|| format!("listening on {address}; check that the port is free"))
}
