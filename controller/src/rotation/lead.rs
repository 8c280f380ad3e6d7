//! What the leader does for a rotation: gathers how far everybody is, lets `plan` decide, and writes the next phase.
//!
//! It remembers nothing that matters: whoever leads next reads the same from the Secret.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod, Secret};
use kube::api::{ListParams, ObjectMeta, Patch};
use kube::{Api, ResourceExt};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::plan::{self, Decision, Replica, Seen};
use super::report;
use super::secret::{BROUGHT, Refusal, Request, View};
use super::{Rotation, fingerprint};
use crate::events::event;
use crate::identity::roots::Written;
use crate::identity::{Authority, Bundle, LoadError, Phase, RootPem, Trust, new_root, read_secret};
use crate::kubernetes;

/// Between two looks, and after each.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// The leader's part; on other replicas it waits.
pub(super) struct Lead {
    pub(super) of: Rotation,
    /// What the ConfigMaps hold.
    pub(super) written: watch::Receiver<Written>,
}

#[derive(Debug, thiserror::Error)]
enum LeadError {
    #[error("{0}; check the controller's Role")]
    Kubernetes(#[from] kube::Error),
    #[error("a root in the Secret cannot be read: {0}")]
    Load(#[from] LoadError),
    #[error("making a root: {0}")]
    Make(#[from] crate::identity::SignError),
    #[error("the new root would make the Secret unusable, and is not taken: {0}")]
    Unusable(String),
}

impl Lead {
    /// Until told to stop.
    pub(super) async fn run(mut self) {
        let mut warned = None;
        loop {
            tokio::select! {
                () = self.of.stop.cancelled() => return,
                changed = self.of.secrets.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            let secret = self.of.secrets.borrow_and_update().clone();
            if let Some(secret) = secret
                && *self.of.leader.borrow()
                && let Err(error) = self.look(&secret, &mut warned).await
                && !is_conflict(&error)
            {
                tracing::warn!(%error, secret = self.of.secret, "the rotation of the root does not go on");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One step at most. `warned` is the beginning of the phase that is known to be late.
    async fn look(
        &self,
        secret: &Secret,
        warned: &mut Option<OffsetDateTime>,
    ) -> Result<(), LeadError> {
        let (view, trust) = (View(secret), self.of.trust.borrow().clone());
        if !view.is_of(&trust.phase) {
            // This replica has not taken it up yet.
            return Ok(());
        }
        self.of.metrics.rotation_phase(trust.phase.word());
        if let Some(request) = view.request(&trust.phase) {
            return self.answer(view, request).await;
        }
        let now = OffsetDateTime::now_utc();
        if trust.phase == Phase::Steady {
            if trust.former().is_empty() {
                return Ok(());
            }
            self.write(&view.replaced(&trust, now)).await?;
            self.tell(false, "RootReplaced", "the root was replaced by hand: certificates are renewed, then the one before is withdrawn").await;
            return Ok(());
        }
        let Some(since) = view.since() else {
            return self.write(&view.counted(now)).await;
        };
        let seen = self.see(view, &trust, since, now).await?;
        let decision = plan::decide(&trust.phase, &seen, &self.of.bounds);
        self.of.metrics.rotation_proxies(decision.done, decision.of);
        let text = decision.text(&trust.phase);
        if decision.late && !decision.advance && *warned != Some(since) {
            *warned = Some(since);
            self.tell(true, "RootRotationLate", &text).await;
        }
        if decision.advance {
            self.advance(view, &trust, &decision, now).await
        } else if view.status() != Some(&text) {
            self.write(&view.told(&text)).await
        } else {
            Ok(())
        }
    }

    async fn answer(
        &self,
        view: View<'_>,
        request: Result<Request, Refusal>,
    ) -> Result<(), LeadError> {
        let now = OffsetDateTime::now_utc();
        let root = match request {
            Ok(Request::Make) => Ok(new_root(now)?),
            Ok(Request::Take) => self.brought(now).await?.map_err(Refusal::Unusable),
            Err(refusal) => Err(refusal),
        };
        match root {
            Ok(root) => {
                let patch =
                    view.distributing(root.certificate.as_bytes(), root.key.as_bytes(), now);
                self.write(&patch).await?;
                self.of.metrics.rotation("started");
                let told = "a new root is made known to all proxies beside the one in use";
                self.tell(false, "RootDistributing", told).await;
            }
            Err(refusal) => {
                self.write(&view.refused(&refusal)).await?;
                self.of.metrics.rotation("refused");
                self.tell(true, "RootRotationRefused", &refusal.to_string())
                    .await;
            }
        }
        Ok(())
    }

    /// The root of the Secret that a user brought, with its whole chain, or what is wrong with it.
    async fn brought(&self, now: OffsetDateTime) -> Result<Result<RootPem, String>, LeadError> {
        let Some(secret) = self.secrets_api().get_opt(BROUGHT).await? else {
            return Ok(Err("it is not there".to_owned()));
        };
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| {
            let bytes = data.get(key).map_or(&[][..], |bytes| &bytes.0);
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (certificate, key) = (text("tls.crt"), text("tls.key"));
        let load = |certificate: &str| {
            let alone = Bundle::default();
            Authority::load(certificate.as_bytes(), key.as_bytes(), &alone, now)
        };
        let (loaded, certificate) = match load(&certificate) {
            Err(LoadError::NoRoot) => {
                let whole = format!("{certificate}\n{}", text("ca.crt"));
                (load(&whole), whole)
            }
            loaded => (loaded, certificate),
        };
        Ok(match loaded {
            Ok(authority) if authority.root() == self.of.trust.borrow().authority.root() => {
                Err("it holds the root that is in use".to_owned())
            }
            Ok(_) => Ok(RootPem { certificate, key }),
            Err(error) => Err(error.to_string()),
        })
    }

    async fn see(
        &self,
        view: View<'_>,
        trust: &Trust,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<Seen, LeadError> {
        let root = fingerprint(trust.target());
        let replicas = self.replicas().await?.into_iter().map(|name| {
            let annotation = report::annotation(&name);
            let report = view.report(&annotation, &trust.phase, root);
            Replica { name, report }
        });
        let snapshot = self.of.snapshots.borrow().clone();
        let pods = snapshot.map_or(0, |snapshot| snapshot.encoder.mesh().pods_in_mesh());
        Ok(Seen {
            elapsed: Duration::try_from(now - since).unwrap_or_default(),
            replicas: replicas.collect(),
            pods,
            unwritten: self.written.borrow().without(&trust.roots.pem(now)),
        })
    }

    /// The replicas that serve proxies, this one among them.
    async fn replicas(&self) -> Result<BTreeSet<String>, LeadError> {
        let fields = format!(
            "spec.serviceAccountName={},status.phase=Running",
            self.of.account
        );
        let pods = Api::<Pod>::namespaced(self.of.client.clone(), &self.of.namespace);
        let pods = pods.list(&ListParams::default().fields(&fields)).await?;
        let serving = pods.items.iter().filter(|pod| is_ready(pod));
        let mut names: BTreeSet<String> = serving.map(ResourceExt::name_any).collect();
        names.insert(self.of.name.clone());
        Ok(names)
    }

    async fn advance(
        &self,
        view: View<'_>,
        trust: &Arc<Trust>,
        decision: &Decision,
        now: OffsetDateTime,
    ) -> Result<(), LeadError> {
        let (patch, reason, told) = match trust.phase {
            Phase::Steady => return Ok(()),
            Phase::Distributing { .. } => {
                let Some(patch) = view.renewing(trust, now)? else {
                    return Ok(());
                };
                usable(view.0, &patch, now)?;
                (
                    patch,
                    "RootSigns",
                    "the new root signs; proxies renew their certificates",
                )
            }
            Phase::Renewing => {
                self.of.metrics.rotation("completed");
                let patch = view.steady(trust, now)?;
                (
                    patch,
                    "RootWithdrawn",
                    "the root before is trusted no longer: the rotation is complete",
                )
            }
        };
        self.write(&patch).await?;
        if decision.is_partial() {
            let left = decision.of.saturating_sub(decision.done);
            let waiting = decision.waiting.join(", ");
            let told = format!(
                "{told}; not waited for: {left} of {} proxies; {waiting}",
                decision.of
            );
            self.tell(true, reason, &told).await;
        } else {
            self.tell(false, reason, &format!("{told} ({} proxies)", decision.of))
                .await;
        }
        Ok(())
    }

    fn secrets_api(&self) -> Api<Secret> {
        Api::namespaced(self.of.client.clone(), &self.of.namespace)
    }

    async fn write(&self, patch: &Value) -> Result<(), LeadError> {
        let api = self.secrets_api();
        let patch = Patch::Merge(patch);
        api.patch(&self.of.secret, &kubernetes::patch(), &patch)
            .await?;
        Ok(())
    }

    /// A line in the log, and an Event of the Secret.
    async fn tell(&self, warning: bool, reason: &str, message: &str) {
        if warning {
            tracing::warn!(
                secret = self.of.secret,
                reason,
                "rotation of the root: {message}"
            );
        } else {
            tracing::info!(
                secret = self.of.secret,
                reason,
                "rotation of the root: {message}"
            );
        }
        let metadata = ObjectMeta {
            generate_name: Some(format!("{}-", self.of.secret)),
            ..ObjectMeta::default()
        };
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(self.of.secret.clone()),
            namespace: Some(self.of.namespace.clone()),
            ..ObjectReference::default()
        };
        let event = event(metadata, object, warning, reason, message);
        let api = Api::<Event>::namespaced(self.of.client.clone(), &self.of.namespace);
        if let Err(error) = api.create(&kubernetes::post(), &event).await {
            tracing::info!(%error, reason, "no Event written of the rotation");
        }
    }
}

/// The Secret as the patch would make it can be used.
fn usable(secret: &Secret, patch: &Value, now: OffsetDateTime) -> Result<(), LeadError> {
    let unusable = |error: String| LeadError::Unusable(error);
    let mut data = secret.data.clone().unwrap_or_default();
    for (key, value) in patch
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if value.is_null() {
            data.remove(key);
        } else {
            let bytes = serde_json::from_value(value.clone());
            data.insert(key.clone(), bytes.map_err(|e| unusable(e.to_string()))?);
        }
    }
    read_secret(&data, now)
        .map(drop)
        .map_err(|error| unusable(error.to_string()))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Somebody else has written: the next look sees it.
fn is_conflict(error: &LeadError) -> bool {
    matches!(error, LeadError::Kubernetes(kube::Error::Api(status)) if status.code == 409)
}
