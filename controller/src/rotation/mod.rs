//! Rotation of the root with overlap and without restarts, in phases that the Secret `weft-ca`
//! keeps.
//!
//! Steady -> distributing (the next root is in `next.crt`, and trusted) -> renewing (it signs; the
//! previous one is in `previous.crt`, and trusted) -> steady (the previous one is in
//! `withdrawn.crt`). Each step is one write, so that the next leader continues from the same state.
//! [`plan`] decides; [`secret`] parses the state and makes the patches; [`report`] is each
//! replica's report on its proxies; [`lead`] collects the reports and writes.

mod lead;
pub mod plan;
mod report;
pub mod secret;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_api::encode;
use weft_api::proto::Resource;

pub use report::Report;

use crate::identity::roots::WriteReport;
use crate::identity::{self, SecretReceiver, TrustReceiver};
use crate::snapshot::Snapshots;
use crate::subscribe::{Registry, Roots};
use lead::Lead;
use plan::Bounds;
use report::Reporter;

/// How often expired roots are removed from what proxies are sent.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// What the rotation needs.
pub struct Rotation {
    pub client: Client,
    pub namespace: String,
    /// The root's Secret.
    pub secret: String,
    /// The service account of the controllers, and their Service.
    pub account: &'static str,
    /// The name of this replica.
    pub name: String,
    /// Whether this replica leads.
    pub leader: watch::Receiver<bool>,
    pub trust: TrustReceiver,
    pub secrets: SecretReceiver,
    pub snapshots: Snapshots,
    pub registry: Registry,
    pub bounds: Bounds,
    pub metrics: identity::Metrics,
    pub stop: CancellationToken,
}

impl Rotation {
    /// Starts to distribute the roots, and to rotate the root on request. Returns the roots that
    /// proxies are sent.
    pub fn start(self, tasks: &TaskTracker) -> Roots {
        let (writes, written) = watch::channel(WriteReport::default());
        tasks.spawn(identity::roots::keep(
            self.client.clone(),
            identity::roots::ServiceName {
                namespace: self.namespace.clone(),
                name: self.account,
            },
            self.trust.clone(),
            self.snapshots.clone(),
            writes,
            self.metrics.clone(),
            self.stop.clone(),
        ));
        let (publish, roots) = watch::channel(None);
        tasks.spawn(publish_roots(
            self.trust.clone(),
            publish,
            self.stop.clone(),
        ));
        let reporter = Reporter {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            secret: self.secret.clone(),
            name: self.name.clone(),
            trust: self.trust.clone(),
            roots: roots.clone(),
            registry: self.registry.clone(),
            stop: self.stop.clone(),
        };
        tasks.spawn(reporter.run());
        tasks.spawn(Lead { of: self, written }.run());
        roots
    }
}

/// Publishes the trusted roots as a resource.
async fn publish_roots(
    mut trust: TrustReceiver,
    to: watch::Sender<Option<Arc<Resource>>>,
    stop: CancellationToken,
) {
    loop {
        let roots = trust
            .borrow_and_update()
            .trusted_roots(OffsetDateTime::now_utc());
        let resource = encode::roots(&roots);
        to.send_if_modified(|before| {
            let differs = before.as_ref().map(|one| one.version) != Some(resource.version);
            if differs {
                *before = Some(Arc::new(resource));
            }
            differs
        });
        tokio::select! {
            () = stop.cancelled() => return,
            changed = trust.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}
