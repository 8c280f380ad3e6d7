//! `weft-controller`: puts the parts together, and takes them down in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_accept::{Port, Protected};
use weft_controller::identity::pod::PodCheck;
use weft_controller::identity::{self, KubeReviewer, SecretStore, ServerIdentity, Signer};
use weft_controller::leader::Election;
use weft_controller::metrics::Metrics;
use weft_controller::options::Options;
use weft_controller::provision::{Obstacles, Provisioner, ProxySettings};
use weft_controller::replicas::{Exchange, Others};
use weft_controller::rotation::{Rotation, plan::Bounds};
use weft_controller::snapshot::{self, Snapshot, Snapshots};
use weft_controller::status::{MeshWriter, ParentWatch, StatusWriter};
use weft_controller::subscribe::{self, Limits, Subscriptions};
use weft_controller::watch::{self as cluster, Kinds, World};
use weft_controller::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME, http, kubernetes, server};
use weft_ir::{Identity, IdentityError};
use weft_translate::{EndpointRules, Settings};

/// The Secret of the mesh's root, in the controller's namespace.
const ROOT_SECRET: &str = "weft-ca";
const ACCOUNT: &str = "weft-controller";
/// How long everything has to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    weft_process::log::start(&options.log, options.log_format, std::io::stdout);
    weft_process::raise_file_limit();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What every part needs.
struct Process {
    options: Options,
    client: Client,
    metrics: Arc<Metrics>,
    /// Connections that gave way to others.
    rejected: weft_accept::Metrics,
    snapshots: Snapshots,
    registry: subscribe::Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

async fn run(options: Options) -> anyhow::Result<()> {
    // Only one provider is compiled in; an error would say that it is installed already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(stop_on_signal(stop.clone())?);

    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let identity_metrics = identity::Metrics::default();
    identity_metrics.register(&mut registry);
    let rejected = weft_accept::Metrics::default();
    rejected.register(&mut registry);

    let (publish, snapshots) = watch::channel(None);
    let client = kubernetes::client()
        .await
        .context("no way to the Kubernetes API: run in a pod, or point KUBECONFIG to a file")?;
    let process = Process {
        options,
        client,
        metrics,
        rejected,
        snapshots,
        registry: subscribe::Registry::default(),
        tasks,
        stop,
    };
    process.serve_pages(registry).await?;
    let (world, kinds) = process.start_watching(publish);
    let leader = process.start_writing(world, kinds, process.proxies()?);
    let served = process.serve_proxies(identity_metrics, leader).await;

    process.stop.cancel();
    process.tasks.close();
    if timeout(GRACE, process.tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end within {} s", GRACE.as_secs());
    }
    tracing::info!("ended");
    served
}

/// Cancels `stop` at SIGTERM or SIGINT.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: ending streams and stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: ending streams and stopping"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
    })
}

async fn listen(on: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    weft_accept::bind(on)
        .await
        .with_context(|| format!("{flag} {on}: cannot listen; check that the port is free"))
}

type Publish = watch::Sender<Option<Arc<Snapshot>>>;

impl Process {
    async fn serve_pages(&self, registry: Registry) -> anyhow::Result<()> {
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
            snapshots: self.snapshots.clone(),
            stop: stop.clone(),
        };
        let ready = http::serve(ready, "ready", page, rejected, protected, stop);
        self.tasks.spawn(ready);
        Ok(())
    }

    fn start_watching(&self, publish: Publish) -> (Arc<World>, Kinds) {
        let world = Arc::new(World::default());
        let follow = cluster::Following {
            client: &self.client,
            metrics: &self.metrics,
            tasks: &self.tasks,
            stop: &self.stop,
            gateways: self.options.gateways,
        };
        let kinds = cluster::start(&world, &follow);
        let settings = Settings {
            trust_domain: self.options.trust_domain.clone(),
            mode: self.options.mtls.into(),
            mode_floor: self.options.mtls_floor.into(),
            controller_name: CONTROLLER_NAME.to_owned(),
            gateway_controller_name: GATEWAY_CONTROLLER_NAME.to_owned(),
            endpoints: EndpointRules {
                denied: self.options.denied_endpoints.clone(),
                external_at_gateways: self.options.gateway_external_endpoints,
            },
        };
        let (metrics, stop) = (Arc::clone(&self.metrics), self.stop.clone());
        let watched = Arc::clone(&world);
        self.tasks
            .spawn(snapshot::publish(watched, settings, publish, metrics, stop));
        (world, kinds)
    }

    /// Says whether this replica leads.
    fn start_writing(
        &self,
        world: Arc<World>,
        kinds: Kinds,
        settings: ProxySettings,
    ) -> watch::Receiver<bool> {
        let (leads, leader) = watch::channel(false);
        let election = Election {
            client: self.client.clone(),
            namespace: self.options.namespace.clone(),
            name: self.options.name.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(election.run(leads));
        let meshes = MeshWriter {
            client: self.client.clone(),
            kind: kinds.mesh.clone(),
            leader: leader.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(meshes.run());
        let parents = ParentWatch {
            client: self.client.clone(),
            kinds: kinds.clone(),
            snapshots: self.snapshots.clone(),
            leader: leader.clone(),
            stop: self.stop.clone(),
        };
        if self.options.gateways {
            self.tasks.spawn(parents.run());
        }
        let (obstruct, obstacles) = watch::channel(Obstacles::default());
        let provisioner = Provisioner {
            client: self.client.clone(),
            settings,
            snapshots: self.snapshots.clone(),
            world: Arc::clone(&world),
            leader: leader.clone(),
            obstacles: obstruct,
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        };
        if self.options.gateways {
            self.tasks.spawn(provisioner.run());
        }
        let (report, others) = watch::channel(Others::default());
        let exchange = Exchange {
            client: self.client.clone(),
            namespace: self.options.namespace.clone(),
            name: self.options.name.clone(),
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            leader: leader.clone(),
            others: report,
            stop: self.stop.clone(),
        };
        self.tasks.spawn(exchange.run());
        let statuses = StatusWriter {
            client: self.client.clone(),
            kinds,
            world,
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            others,
            obstacles,
            leader: leader.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(statuses.run());
        leader
    }

    /// What the proxies of Gateways are started with.
    fn proxies(&self) -> anyhow::Result<ProxySettings> {
        let options = &self.options;
        let of = &options.gateway;
        Ok(ProxySettings {
            image: of.gateway_image.clone(),
            pull_policy: of.gateway_image_pull_policy.clone(),
            pull_secrets: of.gateway_image_pull_secrets.clone(),
            controller: format!("https://{}:15012", self.host()),
            controller_identity: self.identity()?,
            trust_domain: options.trust_domain.clone(),
            access_log: of.gateway_access_log.clone(),
            log: of.gateway_log.clone(),
            log_format: options.log_format,
            workers: of.gateway_workers,
            resources: of.gateway_resources.clone(),
        })
    }

    /// The controller's Service.
    fn host(&self) -> String {
        format!("{ACCOUNT}.{}.svc", self.options.namespace)
    }

    fn identity(&self) -> Result<Identity, IdentityError> {
        let domain = self.options.trust_domain.clone();
        Identity::new(domain, &self.options.namespace, ACCOUNT)
    }

    /// Until told to stop.
    async fn serve_proxies(
        &self,
        metrics: identity::Metrics,
        leader: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let options = &self.options;
        let listener = listen(options.listen, "--listen").await?;
        let secret = SecretStore {
            client: self.client.clone(),
            namespace: options.namespace.clone(),
            name: ROOT_SECRET.to_owned(),
            metrics: metrics.clone(),
        };
        let Some((trust, secrets)) = secret.start(self.stop.clone()).await else {
            return Ok(());
        };
        let rotation = Rotation {
            client: self.client.clone(),
            namespace: options.namespace.clone(),
            secret: ROOT_SECRET.to_owned(),
            account: ACCOUNT,
            name: options.name.clone(),
            leader,
            trust: trust.clone(),
            secrets,
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            bounds: Bounds {
                settle: Duration::from_secs(options.rotation_settle),
                patience: Duration::from_secs(options.rotation_patience),
                life: Duration::from_secs(options.certificate_lifetime),
            },
            metrics: metrics.clone(),
            stop: self.stop.clone(),
        };
        let roots = rotation.start(&self.tasks);
        let lifetime = Duration::from_secs(options.certificate_lifetime);
        let host = self.host();
        let tls = ServerIdentity {
            trust: trust.clone(),
            identity: self.identity()?,
            dns_names: vec![host.clone(), format!("{host}.cluster.local")],
            lifetime,
            metrics: metrics.clone(),
        };
        let reviewer = KubeReviewer(self.client.clone());
        let limits = Limits {
            verify_address: options.verify_pod_address,
            ..Limits::default()
        };
        let pods = PodCheck {
            snapshots: self.snapshots.clone(),
            address: options.verify_pod_address,
            patience: limits.pod,
        };
        let domain = options.trust_domain.clone();
        let signer = Signer::new(reviewer, trust, domain, lifetime, pods, metrics);
        let subscriptions = Subscriptions {
            snapshots: self.snapshots.clone(),
            roots,
            registry: self.registry.clone(),
            metrics: Arc::clone(&self.metrics),
            limits,
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        tracing::info!(listen = %options.listen, "serving proxies");
        let port = Port::new("grpc", &self.rejected);
        Ok(server::serve(
            listener,
            &port,
            tls,
            subscriptions,
            signer,
            self.stop.clone(),
        )
        .await?)
    }
}
