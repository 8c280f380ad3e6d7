//! Keeps the webhook trusted: the certificate in its Secret, its authorities in the webhook's configuration, and
//! only then the certificate in the server. It looks every few seconds rather than waiting for events: two small
//! reads that also mend what somebody else has changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::certificate::{CertificateError, Material, Served};
use super::metrics::Metrics;

const PERIOD: Duration = Duration::from_secs(10);
/// After a failure, and while there is nothing to serve.
const RETRY: Duration = Duration::from_secs(1);
/// How long API servers may take to see a changed configuration before a certificate that depends on it replaces
/// another.
const SETTLE: Duration = Duration::from_secs(5);
/// The same where nothing is served yet.
const SETTLE_FIRST: Duration = Duration::from_secs(1);

/// The field manager of what is written.
const FIELD_MANAGER: &str = "weft-injector";

/// What the keeper looks after.
#[derive(Clone, Debug)]
pub struct Names {
    /// The namespace of the Service and the Secret.
    pub namespace: String,
    pub service: String,
    pub secret: String,
    /// The MutatingWebhookConfiguration.
    pub configuration: String,
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn patch() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

impl Names {
    fn dns(&self) -> Vec<String> {
        let short = format!("{}.{}.svc", self.service, self.namespace);
        vec![format!("{short}.cluster.local"), short]
    }
}

pub(super) struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    names: Names,
    lifetime: Duration,
    served: Arc<Served>,
    metrics: Arc<Metrics>,
    current: Option<Material>,
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("Secret {secret} cannot be {verb}: {source}")]
    Secret {
        verb: &'static str,
        secret: String,
        source: kube::Error,
    },
    #[error("MutatingWebhookConfiguration {configuration} cannot be {verb}: {source}")]
    Configuration {
        verb: &'static str,
        configuration: String,
        source: kube::Error,
    },
    #[error("MutatingWebhookConfiguration {0} lists no webhooks; install the chart again")]
    NoWebhooks(String),
    #[error("another replica wrote Secret {0} at the same time")]
    Raced(String),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        names: Names,
        lifetime: Duration,
        served: Arc<Served>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &names.namespace),
            configurations: Api::all(client),
            names,
            lifetime,
            served,
            metrics,
            current: None,
        }
    }

    /// Runs until `stop`. Failures are logged, counted and tried again; what is served goes on being served.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        loop {
            let round = async {
                let wait = match self.round().await {
                    Ok(()) => PERIOD,
                    Err(KeepError::Raced(_)) => RETRY,
                    Err(error) => {
                        self.metrics.keeper_failures.inc();
                        tracing::warn!(%error, "the webhook's certificate was not kept");
                        RETRY
                    }
                };
                tokio::time::sleep(wait).await;
            };
            if stop.run_until_cancelled(round).await.is_none() {
                return;
            }
        }
    }

    /// The order matters: no certificate is served before the API server can trust it.
    async fn round(&mut self) -> Result<(), KeepError> {
        let material = self.shared().await?;
        let changed = self.trust(material.bundle()).await?;
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.same(&material))
        {
            return Ok(());
        }
        match (&self.current, changed) {
            (Some(_), _) => tokio::time::sleep(SETTLE).await,
            (None, true) => tokio::time::sleep(SETTLE_FIRST).await,
            (None, false) => {}
        }
        tracing::info!(not_after = %material.not_after(), "serving a new certificate");
        self.metrics
            .certificate_expiry
            .set(material.not_after().unix_timestamp());
        self.served.set(&material);
        self.current = Some(material);
        Ok(())
    }

    /// The certificate that all replicas share: read, or made where there is none or it is due.
    async fn shared(&self) -> Result<Material, KeepError> {
        let secret = self
            .secrets
            .get_opt(&self.names.secret)
            .await
            .map_err(|source| self.secret_error("read", source))?;
        let now = OffsetDateTime::now_utc();
        let Some(secret) = secret else {
            let made = Material::make(&self.names.dns(), self.lifetime, now, None)?;
            tracing::info!(secret = self.names.secret, "making the first certificate");
            return self.create(made).await;
        };
        let held = match Material::from_secret(secret.data.as_ref().unwrap_or(&Default::default()))
        {
            Ok(held) => Some(held),
            Err(error) => {
                tracing::warn!(%error, secret = self.names.secret, "the certificate cannot be read and is made anew");
                None
            }
        };
        if let Some(held) = &held
            && !held.is_due(self.lifetime, now)
        {
            return Ok(held.clone());
        }
        let made = Material::make(&self.names.dns(), self.lifetime, now, held.as_ref())?;
        self.replace(secret, made).await
    }

    async fn create(&self, made: Material) -> Result<Material, KeepError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.names.secret.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(made.secret_data()),
            ..Secret::default()
        };
        let created = self.secrets.create(&post(), &secret).await;
        self.written("created", created, made)
    }

    /// The resource version that was read goes along, so that of two replicas one fails and reads again.
    async fn replace(&self, mut secret: Secret, made: Material) -> Result<Material, KeepError> {
        secret.data = Some(made.secret_data());
        let replaced = self
            .secrets
            .replace(&self.names.secret, &post(), &secret)
            .await;
        self.written("replaced", replaced, made)
    }

    fn written(
        &self,
        verb: &'static str,
        answer: kube::Result<Secret>,
        made: Material,
    ) -> Result<Material, KeepError> {
        match answer {
            Ok(_) => Ok(made),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(KeepError::Raced(self.names.secret.clone()))
            }
            Err(source) => Err(self.secret_error(verb, source)),
        }
    }

    /// Puts the bundle into every webhook of the configuration that lacks it; says whether one did.
    async fn trust(&self, bundle: &str) -> Result<bool, KeepError> {
        let failed = |verb, source| KeepError::Configuration {
            verb,
            configuration: self.names.configuration.clone(),
            source,
        };
        let configuration = self
            .configurations
            .get(&self.names.configuration)
            .await
            .map_err(|e| failed("read", e))?;
        let webhooks = configuration.webhooks.unwrap_or_default();
        if webhooks.is_empty() {
            return Err(KeepError::NoWebhooks(self.names.configuration.clone()));
        }
        let wanted = ByteString(bundle.as_bytes().to_vec());
        let stale: Vec<_> = webhooks
            .iter()
            .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted))
            .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": wanted } }))
            .collect();
        if stale.is_empty() {
            return Ok(false);
        }
        tracing::info!(webhooks = stale.len(), "updating the caBundle");
        // A strategic merge finds the webhooks by name and leaves all else in them as it is.
        let trust = Patch::Strategic(json!({ "webhooks": stale }));
        self.configurations
            .patch(&self.names.configuration, &patch(), &trust)
            .await
            .map_err(|e| failed("patched", e))?;
        Ok(true)
    }

    fn secret_error(&self, verb: &'static str, source: kube::Error) -> KeepError {
        KeepError::Secret {
            verb,
            secret: self.names.secret.clone(),
            source,
        }
    }
}
