//! The cluster, translated: an immutable [`Snapshot`] for each moment of quiet, published to whoever serves from it.
//!
//! Nothing is published before every kind has been listed, so that nobody is told that something does not exist
//! because it has not been seen yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use weft_translate::{
    GatewayClassStatus, GatewayStatus, ListenerSetStatus, Mesh, MissingParents, PolicyStatus,
    Provision, RouteStatus, Settings, Translation, Translator,
};

use crate::metrics::Metrics;
use crate::subscribe::Encoder;
use crate::watch::World;

/// A burst of changes is over after this long without one ...
const QUIET: Duration = Duration::from_millis(5);
/// ... or at the latest after this long.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What the cluster says at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// What proxies are told, ready for the wire.
    pub encoder: Encoder,
    /// Of routes.
    pub statuses: Vec<Arc<RouteStatus>>,
    pub gateway_classes: Vec<GatewayClassStatus>,
    pub gateways: Vec<GatewayStatus>,
    pub listener_sets: Vec<ListenerSetStatus>,
    pub policies: Vec<PolicyStatus>,
    /// What Gateways run on.
    pub provisions: Vec<Provision>,
    /// Of routes.
    pub missing_parents: Vec<MissingParents>,
}

impl Snapshot {
    pub fn new(translation: Translation) -> Self {
        Self::made(translation, Encoder::new)
    }

    /// The one that comes after this one.
    pub fn next(&self, translation: Translation) -> Self {
        Self::made(translation, |mesh| self.encoder.next(mesh))
    }

    fn made(translation: Translation, encoder: impl FnOnce(Mesh) -> Encoder) -> Self {
        let Translation {
            mesh,
            statuses,
            gateway_classes,
            gateways,
            listener_sets,
            policies,
            provisions,
            missing_parents,
            warnings: _,
        } = translation;
        Self {
            encoder: encoder(mesh),
            statuses,
            gateway_classes,
            gateways,
            listener_sets,
            policies,
            provisions,
            missing_parents,
        }
    }

    /// Where Gateways have proxies.
    pub fn gateway_namespaces(&self) -> BTreeSet<String> {
        let namespaces = self.provisions.iter();
        namespaces
            .map(|of| of.gateway.namespace.to_string())
            .collect()
    }
}

/// The latest snapshot; `None` until everything has been listed.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Translates `world` after each burst of changes, until `stop`.
pub async fn publish(
    world: Arc<World>,
    settings: Settings,
    to: watch::Sender<Option<Arc<Snapshot>>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut changes = world.changes.objects.subscribe();
    let mut translator = Translator::new(settings.clone());
    let mut warned = BTreeSet::new();
    loop {
        if world.listed() {
            // One that panicked is not used again.
            let whole = std::mem::replace(&mut translator, Translator::new(settings.clone()));
            match take(&world, whole, &metrics, &mut warned).await {
                Some((translation, whole)) => {
                    translator = whole;
                    let last = to.borrow().clone();
                    let next = match last {
                        Some(last) => last.next(translation),
                        None => Snapshot::new(translation),
                    };
                    to.send_replace(Some(Arc::new(next)));
                }
                None => tracing::error!("translation panicked: the last snapshot stays in force"),
            }
        }
        tokio::select! {
            () = burst(&mut changes) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Resolves at the end of the next burst of changes.
pub(crate) async fn burst(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        return std::future::pending().await;
    }
    let end = Instant::now() + LONGEST_WAIT;
    loop {
        let quiet = end.min(Instant::now() + QUIET);
        match timeout_at(quiet, changes.changed()).await {
            Ok(Ok(())) if Instant::now() < end => {}
            _ => return,
        }
    }
}

/// `None` when translation panicked.
async fn take(
    world: &World,
    mut translator: Translator,
    metrics: &Metrics,
    warned: &mut BTreeSet<String>,
) -> Option<(Translation, Translator)> {
    let objects = world.objects();
    let begin = std::time::Instant::now();
    // A large cluster takes milliseconds, which streams should not wait for.
    let translation = tokio::task::spawn_blocking(move || {
        let translation = translator.translate(&objects);
        (translation, translator)
    });
    let (translation, translator) = translation.await.ok()?;
    metrics
        .translate_seconds
        .observe(begin.elapsed().as_secs_f64());
    metrics.snapshots.inc();
    // Each once, for as long as it holds.
    for warning in translation.warnings.difference(warned) {
        tracing::warn!("{warning}");
    }
    warned.clone_from(&translation.warnings);
    Some((translation, translator))
}

/// How tests translate.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn test_settings() -> Settings {
    Settings {
        trust_domain: weft_ir::TrustDomain::new("cluster.local").unwrap(),
        mode: weft_ir::Mode::Permissive,
        mode_floor: weft_ir::Mode::Permissive,
        controller_name: crate::CONTROLLER_NAME.into(),
        gateway_controller_name: crate::GATEWAY_CONTROLLER_NAME.into(),
        endpoints: weft_translate::EndpointRules::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_ends_after_a_few_quiet_milliseconds() {
        let (ring, mut changes) = watch::channel(());
        let begin = Instant::now();
        ring.send_replace(());
        burst(&mut changes).await;
        assert_eq!(begin.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_do_not_put_it_off_for_ever() {
        let (ring, mut changes) = watch::channel(());
        let begin = Instant::now();
        ring.send_replace(());
        let ringing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                ring.send_replace(());
            }
        };
        tokio::select! {
            () = burst(&mut changes) => {}
            () = ringing => {}
        }
        let taken = begin.elapsed();
        assert!(
            taken >= LONGEST_WAIT && taken < LONGEST_WAIT + QUIET,
            "{taken:?}"
        );
    }
}
