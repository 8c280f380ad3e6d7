//! `weft-controller provision`: keeps the objects that Gateways run on. Listens for probes and
//! scrapes alone.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::Process;
use crate::metrics::ProvisionerMetrics;
use crate::names::GATEWAY_CONTROLLER_NAME;
use crate::options::{GatewayOptions, ProvisionOptions};
use crate::provision::{self, Provisioner, ProxySettings};
use crate::watch::{self as cluster, Scope, World};

/// The Lease that names the replica that provisions.
const LEASE: &str = "weft-provisioner";

/// Runs until SIGTERM or SIGINT.
pub async fn provision(options: ProvisionOptions) -> anyhow::Result<()> {
    let ProvisionOptions { process, gateway } = options;
    let mut registry = Registry::default();
    let process = Process::start(process, "provisioner", &mut registry).await?;
    let metrics = ProvisionerMetrics::register(&mut registry);
    let (publish, provisions) = watch::channel(None);
    process.serve_pages(registry, provisions.clone()).await?;

    let world = Arc::new(World::default());
    let following = cluster::Following {
        client: &process.client,
        metrics: &process.metrics,
        tasks: &process.tasks,
        stop: &process.stop,
        scope: Scope::Provisions,
    };
    cluster::start(&world, &following);
    process.tasks.spawn(provision::publish(
        Arc::clone(&world),
        GATEWAY_CONTROLLER_NAME,
        publish,
        process.stop.clone(),
    ));
    let provisioner = Provisioner {
        client: process.client.clone(),
        namespace: process.options.namespace.clone(),
        settings: proxy_settings(&process, gateway)?,
        provisions,
        world,
        leader: process.start_election(LEASE),
        metrics,
        stop: process.stop.clone(),
    };
    process.tasks.spawn(provisioner.run());
    process.stop.cancelled().await;
    process.end().await;
    Ok(())
}

/// What the proxies of Gateways are started with.
fn proxy_settings(process: &Process, gateway: GatewayOptions) -> anyhow::Result<ProxySettings> {
    Ok(ProxySettings {
        image: gateway.gateway_image,
        pull_policy: gateway.gateway_image_pull_policy,
        pull_secrets: gateway.gateway_image_pull_secrets,
        controller: format!("https://{}:15012", process.controller_host()),
        controller_identity: process.controller_identity()?,
        trust_domain: process.options.trust_domain.clone(),
        access_log: gateway.gateway_access_log,
        log: gateway.gateway_log,
        log_format: process.options.log_format,
        workers: gateway.gateway_workers,
        resources: gateway.gateway_resources,
    })
}
