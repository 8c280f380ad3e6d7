//! Translates the cluster after each burst of changes, and publishes the result as an immutable
//! [`Snapshot`].
//!
//! Nothing is published before every kind has completed its initial list, so that no object counts
//! as absent because it has not been listed yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_translate::objects::KeySource;
use weft_translate::{
    AuthorizationStatus, GatewayClassStatus, GatewayStatus, ListenerSetStatus, Mesh,
    MissingParents, PolicyStatus, RouteStatus, Settings, TrafficPolicyStatus, Translation,
    Translator,
};

use crate::encoder::Encoder;
use crate::metrics::Metrics;
use crate::watch::{World, burst};

/// The translated cluster at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The resources of proxies, encoded on demand.
    pub encoder: Encoder,
    /// The statuses of routes.
    pub statuses: Vec<Arc<RouteStatus>>,
    pub gateway_classes: Vec<GatewayClassStatus>,
    pub gateways: Vec<GatewayStatus>,
    pub listener_sets: Vec<ListenerSetStatus>,
    pub policies: Vec<PolicyStatus>,
    /// The statuses of authorization policies.
    pub authorizations: Vec<AuthorizationStatus>,
    /// The key sets to fetch.
    pub key_sources: Vec<KeySource>,
    /// The statuses of traffic policies.
    pub traffic: Vec<TrafficPolicyStatus>,
    /// The statuses of XBackendTrafficPolicies.
    pub backend_traffic: Vec<PolicyStatus>,
    /// The namespaces in which Gateways have proxies.
    pub gateway_namespaces: BTreeSet<String>,
    /// The missing parents of routes.
    pub missing_parents: Vec<MissingParents>,
}

impl Snapshot {
    pub fn new(translation: Translation) -> Self {
        Self::made(translation, Encoder::new)
    }

    /// Returns the next snapshot, which takes over the encodings that are still valid.
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
            authorizations,
            key_sources,
            traffic,
            backend_traffic,
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
            authorizations,
            key_sources,
            traffic,
            backend_traffic,
            gateway_namespaces: provisions
                .iter()
                .map(|of| of.gateway.namespace.to_string())
                .collect(),
            missing_parents,
        }
    }
}

/// The latest snapshot; `None` until every kind has completed its initial list.
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
            // A translator that panicked is not used again.
            let current = std::mem::replace(&mut translator, Translator::new(settings.clone()));
            match translate_once(&world, current, &metrics, &mut warned).await {
                Some((translation, current)) => {
                    translator = current;
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

/// Translates the cluster; returns `None` if translation panicked.
async fn translate_once(
    world: &World,
    mut translator: Translator,
    metrics: &Metrics,
    warned: &mut BTreeSet<String>,
) -> Option<(Translation, Translator)> {
    let objects = world.objects();
    let begin = std::time::Instant::now();
    // The translation of a large cluster takes milliseconds, which must not delay streams.
    let translation = tokio::task::spawn_blocking(move || {
        let translation = translator.translate(&objects);
        (translation, translator)
    });
    let (translation, translator) = translation.await.ok()?;
    metrics
        .translate_seconds
        .observe(begin.elapsed().as_secs_f64());
    metrics.snapshots.inc();
    // Each warning is logged once while it lasts.
    for warning in translation.warnings.difference(warned) {
        tracing::warn!("{warning}");
    }
    warned.clone_from(&translation.warnings);
    Some((translation, translator))
}

/// The settings of tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn test_settings() -> Settings {
    Settings {
        trust_domain: weft_ir::TrustDomain::new("cluster.local").unwrap(),
        mode: weft_ir::Mode::Permissive,
        mode_floor: weft_ir::Mode::Permissive,
        authorization: weft_ir::DefaultAuthorization::Allow,
        authorization_floor: weft_ir::DefaultAuthorization::Allow,
        controller_name: crate::names::CONTROLLER_NAME.into(),
        gateway_controller_name: crate::names::GATEWAY_CONTROLLER_NAME.into(),
        endpoints: weft_translate::EndpointRules::default(),
        namespace: "weft-system".to_owned(),
    }
}
