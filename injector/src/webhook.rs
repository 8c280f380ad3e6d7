//! The webhook server and what keeps it trusted: its certificate, the caBundle by which the API server checks it,
//! and the labels of namespaces. What becomes of a pod is decided in `patch` alone.

mod admission;
mod certificate;
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
pub use keeper::Names;

/// After being told to stop, connections are still taken for this long: nodes learn only then that this replica is
/// no longer to be asked.
const LINGER: Duration = Duration::from_secs(5);

/// What the server is told at its start.
/// The part of it before the slash is the field manager of what the injector writes.
const USER_AGENT: &str = concat!("weft-injector/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug)]
pub struct Options {
    /// HTTPS, `/mutate`.
    pub listen: SocketAddr,
    /// HTTP, `/metrics`.
    pub metrics: SocketAddr,
    /// HTTP, `/ready`.
    pub ready: SocketAddr,
    /// The node's address: its kubelet always finds a place on the two.
    pub host_ip: Option<IpAddr>,
    pub names: Names,
    /// How long a certificate lives; at 70 % of it, the next one is made.
    pub certificate_lifetime: Duration,
    pub settings: Settings,
}

/// Serves until `stop` and a little longer, then lets requests that have begun come to their end.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let mut config = kube::Config::infer()
        .await
        .context("no access to Kubernetes: neither a service account nor a kubeconfig was found")?;
    let agent = HeaderValue::from_static(USER_AGENT);
    config.headers.push((header::USER_AGENT, agent));
    let client = Client::try_from(config).context("the client for Kubernetes cannot be made")?;
    let metrics = Arc::new(metrics::Metrics::default());
    let certificate = Arc::new(certificate::Served::default());

    let tls = server::tls(certificate.clone()).context("TLS cannot be set up")?;
    let https = bind(options.listen).await?;
    let plain = plain::Plain {
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
        metrics,
    });
    tracing::info!(address = %options.listen, "serving the webhook");
    // Each of these ends by itself when told to stop; only the server's end is waited for, as it holds requests.
    let background = tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::join!(
                namespaces.watch(namespace_writer, stop.clone()),
                keeper.keep(stop.clone()),
                plain.serve(metrics_http, ready_http, stop),
            )
        }
    });
    let close = CancellationToken::new();
    tokio::join!(server::serve(https, tls, webhook, close.clone()), async {
        stop.cancelled().await;
        tokio::time::sleep(LINGER).await;
        close.cancel();
    });
    background.await.context("a part of the webhook failed")?;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = weft_accept::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}; is the port taken?"))
}
