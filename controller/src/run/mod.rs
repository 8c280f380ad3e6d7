//! The two commands of the program: each starts the tasks it consists of and stops them in order.
//!
//! They are separate processes, so that neither has the rights of the other: [`serve()`] has a port
//! that every pod can dial and the key of the mesh's root, [`provision()`] may create workloads in
//! the namespaces of users.

mod provision;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_accept::Protected;
use weft_ir::{Identity, IdentityError};

pub use provision::provision;
pub use serve::serve;

use crate::leader::Election;
use crate::metrics::ClusterMetrics;
use crate::options::ProcessOptions;
use crate::{http, kubernetes};

/// The ServiceAccount and the Service of `serve`: the proxies' controller.
const CONTROLLER: &str = "weft-controller";
/// How long the tasks may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

/// What both commands are made of.
struct Process {
    options: ProcessOptions,
    client: Client,
    metrics: Arc<ClusterMetrics>,
    /// Connections that were closed in favour of others.
    rejected: weft_accept::Metrics,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Process {
    /// `component` names the process in its metrics.
    async fn start(
        options: ProcessOptions,
        component: &'static str,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(stop_on_signal(stop.clone())?);
        let metrics = Arc::new(ClusterMetrics::register(registry, component));
        let rejected = weft_accept::Metrics::default();
        rejected.register(registry);
        let client = kubernetes::client().await.context(
            "configuring the client of the Kubernetes API: run in a pod, or set KUBECONFIG to a \
             kubeconfig file",
        )?;
        Ok(Self {
            options,
            client,
            metrics,
            rejected,
            tasks,
            stop,
        })
    }

    /// Serves `/metrics`, and `/ready`, which answers 200 once `latest` has a value.
    async fn serve_pages<T: Send + Sync + 'static>(
        &self,
        registry: Registry,
        latest: watch::Receiver<Option<T>>,
    ) -> anyhow::Result<()> {
        let admin = listen(self.options.admin, "--admin").await?;
        let ready = listen(self.options.ready, "--ready").await?;
        let (rejected, stop) = (self.rejected.clone(), self.stop.clone());
        let protected = Protected::of_node(self.options.host_ip);
        let page = http::metrics(registry);
        let metrics = http::serve(
            admin,
            "metrics",
            page,
            rejected.clone(),
            protected.clone(),
            stop.clone(),
        );
        self.tasks.spawn(metrics);
        let page = http::Ready {
            latest,
            stop: stop.clone(),
        };
        let ready = http::serve(ready, "ready", page, rejected, protected, stop);
        self.tasks.spawn(ready);
        Ok(())
    }

    /// Takes part in the election of `lease`; the receiver holds whether this replica leads.
    fn start_election(&self, lease: &'static str) -> watch::Receiver<bool> {
        let (leads, leader) = watch::channel(false);
        let election = Election {
            client: self.client.clone(),
            namespace: self.options.namespace.clone(),
            lease,
            name: self.options.name.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(election.run(leads));
        leader
    }

    /// Stops all tasks and waits for them.
    async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end within {} s", GRACE.as_secs());
        }
        tracing::info!("stopped");
    }

    /// The DNS name of the controller's Service.
    fn controller_host(&self) -> String {
        format!("{CONTROLLER}.{}.svc", self.options.namespace)
    }

    /// The SPIFFE identity of the controller.
    fn controller_identity(&self) -> Result<Identity, IdentityError> {
        let domain = self.options.trust_domain.clone();
        Identity::new(domain, &self.options.namespace, CONTROLLER)
    }
}

/// Cancels `stop` at SIGTERM or SIGINT.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("received SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("received SIGINT: stopping"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
    })
}

async fn listen(on: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    weft_accept::bind(on)
        .await
        .with_context(|| format!("{flag} {on}: cannot listen; check that the port is free"))
}
