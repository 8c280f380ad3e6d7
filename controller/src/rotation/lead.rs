//! The leader's part of a rotation: collects the reports, lets `plan` decide, and writes the next
//! phase.
//!
//! It keeps no state of its own: the next leader reads the same from the Secret.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod, Secret};
use kube::api::{ListParams, ObjectMeta, Patch};
use kube::{Api, ResourceExt};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::Rotation;
use super::plan::{self, Decision, Replica, State};
use super::report;
use super::secret::{Rejection, Request, USER_ROOT, View};
use crate::identity::roots::WriteReport;
use crate::identity::{
    Authority, Bundle, LoadError, Phase, RootFingerprint, RootPem, RotationStep, SecretError,
    Trust, new_root, read_secret,
};
use crate::kubernetes::{self, EventKind, event};

/// The interval between steps, and the pause after each.
const INTERVAL: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// Drives the rotation on the leader; idle on other replicas.
pub(super) struct Lead {
    pub(super) of: Rotation,
    /// The last pass over the ConfigMaps `weft-roots`.
    pub(super) written: watch::Receiver<WriteReport>,
}

#[derive(Debug, thiserror::Error)]
enum LeadError {
    #[error("writing to the Kubernetes API: {0}; check the controller's Role")]
    Kubernetes(#[from] kube::Error),
    #[error("a root in the Secret cannot be loaded: {0}")]
    Load(#[from] LoadError),
    #[error("generating a root: {0}")]
    Generate(#[from] crate::identity::SignError),
    #[error("the next root is not taken into use because the Secret would not be usable: {0}")]
    Unusable(#[from] SecretError),
    #[error("the next root is not taken into use because the Secret would not be usable: {0}")]
    Patch(#[from] serde_json::Error),
}

impl Lead {
    /// Runs until `stop`.
    pub(super) async fn run(mut self) {
        let mut warned = None;
        loop {
            tokio::select! {
                () = self.of.stop.cancelled() => return,
                changed = self.of.secrets.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let secret = self.of.secrets.borrow_and_update().clone();
            if let Some(secret) = secret
                && *self.of.leader.borrow()
                && let Err(error) = self.step(&secret, &mut warned).await
                && !is_conflict(&error)
            {
                tracing::warn!(%error, secret = self.of.secret, "the rotation of the root is stuck: trying again");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes one step at most. `warned` is the beginning of the phase whose delay was logged.
    async fn step(
        &self,
        secret: &Secret,
        warned: &mut Option<OffsetDateTime>,
    ) -> Result<(), LeadError> {
        let (view, trust) = (View(secret), self.of.trust.borrow().clone());
        if !view.is_in(&trust.phase) {
            // This replica has not read this phase yet.
            return Ok(());
        }
        self.of.metrics.rotation_phase(&trust.phase);
        if let Some(request) = view.request(&trust.phase) {
            return self.handle(view, request).await;
        }
        let now = OffsetDateTime::now_utc();
        if trust.phase == Phase::Steady {
            if trust.former().is_empty() {
                return Ok(());
            }
            self.write(&view.replaced(&trust, now)).await?;
            let message = "the root was replaced by a user: proxies renew their certificates, then the \
                           previous root is withdrawn";
            self.announce(EventKind::Normal, "RootReplaced", message)
                .await;
            return Ok(());
        }
        let Some(since) = view.since() else {
            return self.write(&view.started(now)).await;
        };
        let state = self.state(view, &trust, since, now).await?;
        let decision = plan::decide(&trust.phase, &state, &self.of.bounds);
        self.of.metrics.rotation_proxies(decision.done, decision.of);
        let text = decision.text(&trust.phase);
        if decision.late && !decision.advance && *warned != Some(since) {
            *warned = Some(since);
            self.announce(EventKind::Warning, "RootRotationLate", &text)
                .await;
        }
        if decision.advance {
            self.advance(view, &trust, &decision, now).await
        } else if view.status() != Some(&text) {
            self.write(&view.progress(&text)).await
        } else {
            Ok(())
        }
    }

    async fn handle(
        &self,
        view: View<'_>,
        request: Result<Request, Rejection>,
    ) -> Result<(), LeadError> {
        let now = OffsetDateTime::now_utc();
        let root = match request {
            Ok(Request::Generate) => Ok(new_root(now)?),
            Ok(Request::FromSecret) => self.user_root(now).await?.map_err(Rejection::Unusable),
            Err(rejection) => Err(rejection),
        };
        match root {
            Ok(root) => {
                let patch =
                    view.distributing(root.certificate.as_bytes(), root.key.as_bytes(), now);
                self.write(&patch).await?;
                self.of.metrics.rotation(RotationStep::Started);
                let message = "the next root is distributed to all proxies beside the one in use";
                self.announce(EventKind::Normal, "RootDistributing", message)
                    .await;
            }
            Err(rejection) => {
                self.write(&view.rejected(&rejection)).await?;
                self.of.metrics.rotation(RotationStep::Refused);
                self.announce(
                    EventKind::Warning,
                    "RootRotationRefused",
                    &rejection.to_string(),
                )
                .await;
            }
        }
        Ok(())
    }

    /// Returns the root of the user's Secret with its complete chain, or why it is not usable.
    async fn user_root(&self, now: OffsetDateTime) -> Result<Result<RootPem, String>, LeadError> {
        let Some(secret) = self.secrets_api().get_opt(USER_ROOT).await? else {
            return Ok(Err("it does not exist".to_owned()));
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
                let complete = format!("{certificate}\n{}", text("ca.crt"));
                (load(&complete), complete)
            }
            loaded => (loaded, certificate),
        };
        Ok(match loaded {
            Ok(authority) if authority.root() == self.of.trust.borrow().authority.root() => {
                Err("it has the root that is in use already".to_owned())
            }
            Ok(_) => Ok(RootPem { certificate, key }),
            Err(error) => Err(error.to_string()),
        })
    }

    async fn state(
        &self,
        view: View<'_>,
        trust: &Trust,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<State, LeadError> {
        let root = RootFingerprint::of(trust.target());
        let replicas = self.replicas().await?.into_iter().map(|name| {
            let annotation = report::annotation(&name);
            let report = view.report(&annotation, &trust.phase, root);
            Replica { name, report }
        });
        let snapshot = self.of.snapshots.borrow().clone();
        let pods = snapshot.map_or(0, |snapshot| snapshot.encoder.mesh().pods_in_mesh());
        Ok(State {
            elapsed: Duration::try_from(now - since).unwrap_or_default(),
            replicas: replicas.collect(),
            pods,
            unwritten: self.written.borrow().without(&trust.roots.pem(now)),
        })
    }

    /// Returns the names of the replicas that serve proxies, including this one.
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
        let (patch, reason, message) = match trust.phase {
            Phase::Steady => return Ok(()),
            Phase::Distributing { .. } => {
                let Some(patch) = view.renewing(trust, now)? else {
                    return Ok(());
                };
                check_usable(view.0, &patch, now)?;
                (
                    patch,
                    "RootSigns",
                    "the new root signs; proxies renew their certificates",
                )
            }
            Phase::Renewing => {
                self.of.metrics.rotation(RotationStep::Completed);
                let patch = view.steady(trust, now)?;
                (
                    patch,
                    "RootWithdrawn",
                    "the previous root is withdrawn: the rotation is complete",
                )
            }
        };
        self.write(&patch).await?;
        if decision.is_partial() {
            let left = decision.of.saturating_sub(decision.done);
            let waiting = decision.waiting.join(", ");
            let message = format!(
                "{message}; without waiting for {left} of {} proxies: {waiting}",
                decision.of
            );
            self.announce(EventKind::Warning, reason, &message).await;
        } else {
            self.announce(
                EventKind::Normal,
                reason,
                &format!("{message} ({} proxies)", decision.of),
            )
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

    /// Writes a log line, and an Event of the Secret.
    async fn announce(&self, kind: EventKind, reason: &str, message: &str) {
        if kind == EventKind::Warning {
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
        let event = event(metadata, object, kind, reason, message);
        let api = Api::<Event>::namespaced(self.of.client.clone(), &self.of.namespace);
        if let Err(error) = api.create(&kubernetes::post(), &event).await {
            tracing::info!(%error, reason, "the Event of the rotation was not written; check the controller's Role for events");
        }
    }
}

/// Checks that the patched Secret is usable.
fn check_usable(secret: &Secret, patch: &Value, now: OffsetDateTime) -> Result<(), LeadError> {
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
            data.insert(key.clone(), serde_json::from_value(value.clone())?);
        }
    }
    read_secret(&data, now)?;
    Ok(())
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

/// Returns true if the Secret has changed since it was read: the next step reads it again.
fn is_conflict(error: &LeadError) -> bool {
    matches!(error, LeadError::Kubernetes(kube::Error::Api(status)) if status.code == 409)
}
