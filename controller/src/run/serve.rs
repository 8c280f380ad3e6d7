//! `weft-controller serve`: configures proxies, signs their certificates and writes statuses.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use weft_accept::Port;
use weft_translate::{EndpointRules, Settings};

use super::{CONTROLLER, Process, listen};
use crate::identity::pod::PodCheck;
use crate::identity::{self, KubeReviewer, SecretStore, ServerIdentity, Signer};
use crate::keys::KeyFetcher;
use crate::metrics::Metrics;
use crate::names::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME};
use crate::obstacles::{self, Obstacles};
use crate::options::ServeOptions;
use crate::replicas::{Exchange, Others};
use crate::rotation::{Rotation, plan::Bounds};
use crate::server;
use crate::snapshot::{self, Snapshot, Snapshots};
use crate::status::{MeshWriter, ParentWatch, StatusWriter};
use crate::subscribe::{self, Limits, Subscriptions};
use crate::watch::{self as cluster, Kinds, Scope, World};

/// The Secret of the mesh's root, in the controller's namespace.
const ROOT_SECRET: &str = "weft-ca";
/// The Lease that names the replica that writes statuses and rotates the root.
const LEASE: &str = "weft-controller";

/// Runs until SIGTERM or SIGINT.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let process = Process::start(options.process.clone(), "controller", &mut registry).await?;
    let metrics = Arc::new(Metrics::register(&mut registry));
    let identity_metrics = identity::Metrics::default();
    identity_metrics.register(&mut registry);
    let (publish, snapshots) = watch::channel(None);
    process.serve_pages(registry, snapshots.clone()).await?;

    let leader = process.start_election(LEASE);
    let serve = Serve {
        options,
        process,
        metrics,
        snapshots,
        registry: subscribe::Registry::default(),
        leader,
    };
    let (world, kinds) = serve.start_watching(publish);
    serve.start_writing(world, kinds);
    let served = serve.serve_proxies(identity_metrics).await;
    serve.process.end().await;
    served
}

/// What the parts of the command share.
struct Serve {
    options: ServeOptions,
    process: Process,
    metrics: Arc<Metrics>,
    snapshots: Snapshots,
    registry: subscribe::Registry,
    leader: watch::Receiver<bool>,
}

type Publish = watch::Sender<Option<Arc<Snapshot>>>;

impl Serve {
    fn start_watching(&self, publish: Publish) -> (Arc<World>, Kinds) {
        let (options, process) = (&self.options, &self.process);
        let world = Arc::new(World::default());
        let following = cluster::Following {
            client: &process.client,
            metrics: &process.metrics,
            tasks: &process.tasks,
            stop: &process.stop,
            scope: match options.gateways {
                true => Scope::MeshAndGateways,
                false => Scope::Mesh,
            },
        };
        let kinds = cluster::start(&world, &following);
        process.tasks.spawn(cluster::keys::follow(
            process.client.clone(),
            process.options.namespace.clone(),
            Arc::clone(&world),
            process.stop.clone(),
        ));
        let settings = Settings {
            trust_domain: process.options.trust_domain.clone(),
            mode: options.mtls.into(),
            mode_floor: options.mtls_floor.into(),
            authorization: options.authorization_default.into(),
            authorization_floor: options.authorization_floor.into(),
            controller_name: CONTROLLER_NAME.to_owned(),
            gateway_controller_name: GATEWAY_CONTROLLER_NAME.to_owned(),
            endpoints: EndpointRules {
                denied: options.denied_endpoints.clone(),
                external_at_gateways: options.gateway_external_endpoints,
            },
            namespace: process.options.namespace.clone(),
        };
        let publishing = snapshot::publish(
            Arc::clone(&world),
            settings,
            publish,
            Arc::clone(&self.metrics),
            process.stop.clone(),
        );
        process.tasks.spawn(publishing);
        (world, kinds)
    }

    /// Starts what writes to the cluster, apart from the root and its ConfigMaps.
    fn start_writing(&self, world: Arc<World>, kinds: Kinds) {
        let process = &self.process;
        let meshes = MeshWriter {
            client: process.client.clone(),
            kind: kinds.mesh.clone(),
            leader: self.leader.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: process.stop.clone(),
        };
        process.tasks.spawn(meshes.run());
        let keys = KeyFetcher {
            client: process.client.clone(),
            metrics: Arc::clone(&self.metrics),
            namespace: process.options.namespace.clone(),
            denied: self.options.denied_endpoints.clone(),
            world: Arc::clone(&world),
            snapshots: self.snapshots.clone(),
            leader: self.leader.clone(),
            stop: process.stop.clone(),
        };
        process.tasks.spawn(keys.run());
        let obstacles = self.start_gateways(&kinds);
        let others = self.start_exchange();
        let statuses = StatusWriter {
            client: process.client.clone(),
            kinds,
            world,
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            others,
            obstacles,
            leader: self.leader.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: process.stop.clone(),
        };
        process.tasks.spawn(statuses.run());
    }

    /// Starts what only Gateways need; the receiver holds what the provisioner reports.
    fn start_gateways(&self, kinds: &Kinds) -> watch::Receiver<Obstacles> {
        let process = &self.process;
        let (report, obstacles) = watch::channel(Obstacles::default());
        if self.options.gateways {
            let parents = ParentWatch {
                client: process.client.clone(),
                kinds: kinds.clone(),
                snapshots: self.snapshots.clone(),
                leader: self.leader.clone(),
                stop: process.stop.clone(),
            };
            process.tasks.spawn(parents.run());
            process.tasks.spawn(obstacles::follow(
                process.client.clone(),
                process.options.namespace.clone(),
                report,
                process.stop.clone(),
            ));
        }
        obstacles
    }

    /// Starts the exchange of reports with other replicas.
    fn start_exchange(&self) -> watch::Receiver<Others> {
        let process = &self.process;
        let (report, others) = watch::channel(Others::default());
        let exchange = Exchange {
            client: process.client.clone(),
            namespace: process.options.namespace.clone(),
            name: process.options.name.clone(),
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            leader: self.leader.clone(),
            others: report,
            stop: process.stop.clone(),
        };
        process.tasks.spawn(exchange.run());
        others
    }

    /// Serves the gRPC port until `stop`.
    async fn serve_proxies(&self, metrics: identity::Metrics) -> anyhow::Result<()> {
        let (options, process) = (&self.options, &self.process);
        let listener = listen(options.listen, "--listen").await?;
        let secret = SecretStore {
            client: process.client.clone(),
            namespace: process.options.namespace.clone(),
            name: ROOT_SECRET.to_owned(),
            metrics: metrics.clone(),
        };
        let Some((trust, secrets)) = secret.start(process.stop.clone()).await else {
            return Ok(());
        };
        let lifetime = options.certificate_lifetime;
        let rotation = Rotation {
            client: process.client.clone(),
            namespace: process.options.namespace.clone(),
            secret: ROOT_SECRET.to_owned(),
            account: CONTROLLER,
            name: process.options.name.clone(),
            leader: self.leader.clone(),
            trust: trust.clone(),
            secrets,
            snapshots: self.snapshots.clone(),
            registry: self.registry.clone(),
            bounds: Bounds {
                settle: options.rotation_settle,
                phase_timeout: options.rotation_phase_timeout,
                life: lifetime,
            },
            metrics: metrics.clone(),
            stop: process.stop.clone(),
        };
        let roots = rotation.start(&process.tasks);
        let host = process.controller_host();
        let tls = ServerIdentity {
            trust: trust.clone(),
            identity: process.controller_identity()?,
            dns_names: vec![host.clone(), format!("{host}.cluster.local")],
            lifetime,
            metrics: metrics.clone(),
        };
        let reviewer = KubeReviewer(process.client.clone());
        let limits = Limits {
            verify_address: options.verify_pod_address,
            ..Limits::default()
        };
        let pods = PodCheck {
            snapshots: self.snapshots.clone(),
            address: options.verify_pod_address,
            max_wait: limits.pod,
        };
        let domain = process.options.trust_domain.clone();
        let signer = Signer::new(reviewer, trust, domain, lifetime, pods, metrics);
        let subscriptions = Subscriptions {
            snapshots: self.snapshots.clone(),
            roots,
            registry: self.registry.clone(),
            metrics: Arc::clone(&self.metrics),
            limits,
            tasks: process.tasks.clone(),
            stop: process.stop.clone(),
        };
        tracing::info!(listen = %options.listen, "serving proxies");
        let port = Port::new("grpc", &process.rejected);
        let stop = process.stop.clone();
        Ok(server::serve(listener, &port, tls, subscriptions, signer, stop).await?)
    }
}
