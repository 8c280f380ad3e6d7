//! Puts the parts together, runs them, and ends them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_accept::Protected;

use crate::admin::{self, Page, Readiness};
use crate::control::channel::Address;
use crate::control::renewal::Renewal;
use crate::control::store::{Settings, Store};
use crate::control::subscribe::Stream;
use crate::control::withdrawal::{DrainLimits, Withdrawal};
use crate::drain::{self, Shutdown};
use crate::http::runtime::Proxy;
use crate::options::{LogFormat, Options, RunMode};
use crate::probe::TcpProbes;
use crate::routing::gateway_port::{BoundPort, BoundPorts};
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::text::AsText;
use crate::tls::Tls;
use crate::tls::credentials::CurrentCredentials;
use crate::{listen, upstream};

/// The control side of a proxy, running in the background until dropped.
pub struct Control {
    pub context: Proxy,
    pub withdrawal: Withdrawal,
    /// The ports of a gateway as they are bound; `None` in a sidecar.
    pub opened: Option<mpsc::UnboundedReceiver<BoundPort>>,
    tasks: JoinSet<()>,
}

impl Control {
    /// Starts identity, configuration and the sweeping of what is idle.
    pub fn start(
        options: Options,
        access: AccessLog,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let identity = options
            .identity()
            .context("POD_NAMESPACE and SERVICE_ACCOUNT")?;
        let controller = Address::try_from(&options.controller).context("WEFT_CONTROLLER")?;
        let controller = controller.with_file(options.controller_addresses.clone());
        let current = CurrentCredentials::default();
        let tls = Tls::new(current.clone(), options.trust_domain.clone())?;
        let mut upstream =
            upstream::EndpointRegistry::new(options.own_addresses(), tls.clone(), metrics.clone());
        if options.mode == RunMode::Gateway && options.endpoint_requests > 0 {
            upstream = upstream.with_endpoint_requests(options.endpoint_requests);
        }
        let upstream = Arc::new(upstream);
        let (ports, opened) = match options.mode {
            RunMode::Sidecar => (None, None),
            RunMode::Gateway => {
                let (opener, opened) = BoundPorts::channel();
                (Some(opener), Some(opened))
            }
        };
        let settings = Settings {
            identity: identity.clone(),
            current: current.clone(),
            wait: options.lookup,
            idle: options.idle,
            ports,
        };
        let (store, requests) = Store::new(settings, upstream.clone(), metrics.clone());

        let mut tasks = JoinSet::new();
        let renewal = Renewal {
            identity,
            controller: controller.clone(),
            controller_identity: options.controller_identity.clone(),
            token: options.token.clone(),
            roots: options.roots.clone(),
            tls: tls.clone(),
            current: current.clone(),
            metrics: metrics.clone(),
            clock: crate::tls::credentials::unix_now,
        };
        tasks.spawn(renewal.run());
        let withdrawal = Withdrawal::default();
        let stream = Stream {
            controller,
            controller_identity: options.controller_identity.clone(),
            namespace: options.namespace.clone(),
            pod: options.pod.clone(),
            tls: tls.clone(),
            current,
            store: store.clone(),
            requests,
            withdrawal: withdrawal.clone(),
            metrics: metrics.clone(),
        };
        tasks.spawn(stream.run());
        tasks.spawn(store.clone().sweep_forever());
        if opened.is_some() {
            tasks.spawn(store.clone().bind_forever());
        }
        let context = Proxy {
            options: Arc::new(options),
            store,
            tls,
            metrics,
            access,
            upstream,
        };
        Ok(Self {
            context,
            withdrawal,
            opened,
            tasks,
        })
    }

    /// Resolves only when a task ended, which none does but by a fault: the process had better
    /// begin anew.
    pub async fn broken(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Err(error)) => anyhow::Error::new(error).context("identity or configuration"),
            Some(Ok(())) | None => anyhow::anyhow!("identity or configuration has ended"),
        }
    }

    /// Ends the tasks; connections that stand are left alone.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Runs a proxy until a signal, or until a listener cannot be had.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let dropped = metrics.access_log_dropped.clone();
    let out: Box<dyn std::io::Write + Send> = match options.log_format {
        LogFormat::Json => Box::new(std::io::stdout()),
        LogFormat::Text => Box::new(AsText::new(std::io::stdout())),
    };
    let (access, writer) =
        AccessLog::start(options.access_log, out, dropped).context("starting the access log")?;
    let mut control = Control::start(options, access, metrics)?;
    let (context, shutdown) = (control.context.clone(), Shutdown::new());
    let (withdrawal, opened) = (control.withdrawal.clone(), control.opened.take());
    let served = tokio::select! {
        served = serve(&context, withdrawal, opened, &shutdown) => served,
        error = control.broken() => Err(error),
    };
    drop(context);
    control.stop().await;
    // The process ends here, so connections that were cut cannot hold the log open.
    let flushed = tokio::task::spawn_blocking(move || writer.finish());
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), flushed).await;
    served
}

async fn serve(
    context: &Proxy,
    withdrawal: Withdrawal,
    opened: Option<mpsc::UnboundedReceiver<BoundPort>>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let options = context.options.clone();
    let readiness = Readiness {
        mode: options.mode,
        tls: context.tls.clone(),
        store: context.store.clone(),
        shutdown: shutdown.clone(),
        listening: Arc::new(AtomicBool::new(false)),
        probes: TcpProbes::new(
            &options.own_addresses(),
            options.probe_ports.iter().copied(),
        ),
        withdrawal,
        limits: DrainLimits {
            bound: options.withdraw,
            grace: options.outside_grace,
        },
    };
    let listening = readiness.listening.clone();
    let protected = Protected::of_node(options.host_ip);
    let mut pages = JoinSet::new();
    for (address, page) in [
        (options.admin, Page::metrics(context.metrics.clone())),
        (options.ready, Page::Ready(readiness)),
    ] {
        let listener = admin::bind(address).await;
        let listener = listener.with_context(|| format!("listening on {address}"))?;
        let (metrics, protected) = (context.metrics.clone(), protected.clone());
        pages.spawn(async move { admin::serve(listener, page, &metrics, &protected).await });
    }
    let (proxy, draining) = (context.clone(), shutdown.clone());
    let pod = format!("{}/{}", options.namespace, options.pod);
    let traffic = match opened {
        Some(opened) => {
            tracing::info!(pod, "a gateway: listening where the controller says");
            tokio::spawn(async move { listen::gateway::run(&proxy, draining, opened).await })
        }
        None => {
            let listeners = listen::Listeners::bind(&options).context("listening")?;
            let (outbound, inbound) = (options.outbound, options.inbound);
            tracing::info!(%outbound, %inbound, pod, "listening");
            tokio::spawn(async move { listen::run(&proxy, draining, listeners).await })
        }
    };
    listening.store(true, Ordering::Release);
    drain::terminated().await.context("waiting for signals")?;
    tracing::info!(open = shutdown.open(), bound = ?options.drain, "draining");
    let cut = shutdown.drain(options.drain).await;
    tracing::info!(cut, "ended");
    traffic.abort();
    Ok(())
}
