//! The root replaced in overlap, with no restart: by phases that the Secret `weft-ca` itself keeps.
//!
//! Steady -> distributing (the root to come is in `next.crt`, and trusted) -> renewing (it signs; the one before is in
//! `previous.crt`, and trusted) -> steady (the one before is in `withdrawn.crt`). Each step is one write, so that
//! whoever leads next goes on where the last one stood. [`plan`] decides; [`secret`] reads and makes the writes;
//! [`report`] is what each replica says of the proxies connected to it; [`lead`] gathers that and acts.

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
use weft_ir::TrustedRoots;

pub use report::Report;

use crate::identity::roots::Written;
use crate::identity::{self, SecretReceiver, TrustReceiver};
use crate::snapshot::Snapshots;
use crate::subscribe::{Registry, Roots};
use lead::Lead;
use plan::Bounds;
use report::Reporter;

/// How often roots that have ended are looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// What the rotation needs.
pub struct Rotation {
    pub client: Client,
    pub namespace: String,
    /// The root's Secret.
    pub secret: String,
    /// The service account of the controllers, and their Service.
    pub account: &'static str,
    /// What this replica is called.
    pub name: String,
    /// Whether it leads.
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
    /// Keeps the roots where they are needed, and replaces the root when asked to. Gives what proxies are told.
    pub fn start(self, tasks: &TaskTracker) -> Roots {
        let (writes, written) = watch::channel(Written::default());
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
        let (told, roots) = watch::channel(None);
        tasks.spawn(tell(self.trust.clone(), told, self.stop.clone()));
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

/// A root's name in reports: the digest that it has as a resource.
pub fn fingerprint(root: &[u8]) -> u64 {
    let alone = TrustedRoots {
        signer: root.to_vec(),
        further: Vec::new(),
    };
    encode::roots(&alone).version
}

/// Keeps `to` the resource of what is trusted.
async fn tell(
    mut trust: TrustReceiver,
    to: watch::Sender<Option<Arc<Resource>>>,
    stop: CancellationToken,
) {
    loop {
        let told = trust.borrow_and_update().told(OffsetDateTime::now_utc());
        let resource = encode::roots(&told);
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
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}
