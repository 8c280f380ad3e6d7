//! Keeps the webhook trusted: the certificate in its Secret, its CA in the webhook's configuration,
//! and only then the certificate in the server. It polls every few seconds rather than watching:
//! two small reads, which also revert changes by others.

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

use super::certificate::{CertificateError, ServedCertificate, WebhookCertificate};
use super::metrics::Metrics;

const PERIOD: Duration = Duration::from_secs(10);
/// The interval after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long API servers may take to read a changed configuration before the certificate that
/// depends on it is served.
const SETTLE: Duration = Duration::from_secs(5);
/// As [`SETTLE`], while no certificate is served yet.
const SETTLE_FIRST: Duration = Duration::from_secs(1);

/// The field manager of the injector's writes.
const FIELD_MANAGER: &str = "weft-injector";

/// The names of the objects that the keeper maintains.
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
    served: Arc<ServedCertificate>,
    metrics: Arc<Metrics>,
    current: Option<WebhookCertificate>,
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("Secret {secret} could not be {verb}: {source}; check the injector's Role")]
    Secret {
        verb: &'static str,
        secret: String,
        source: kube::Error,
    },
    #[error(
        "MutatingWebhookConfiguration {configuration} could not be {verb}: {source}; check the \
         injector's ClusterRole"
    )]
    Configuration {
        verb: &'static str,
        configuration: String,
        source: kube::Error,
    },
    #[error("MutatingWebhookConfiguration {0} has no webhooks; install the chart again")]
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
        served: Arc<ServedCertificate>,
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

    /// Runs until `stop`. Failures are logged, counted and retried; the current certificate stays
    /// in use.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        loop {
            let round = async {
                let wait = match self.round().await {
                    Ok(()) => PERIOD,
                    Err(KeepError::Raced(_)) => RETRY,
                    Err(error) => {
                        self.metrics.keeper_failures.inc();
                        tracing::warn!(%error, "keeping the webhook's certificate failed: trying again");
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

    /// Makes one round. The order matters: no certificate is served before the API server can trust
    /// it.
    async fn round(&mut self) -> Result<(), KeepError> {
        let certificate = self.shared().await?;
        let changed = self.trust(certificate.bundle()).await?;
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.same(&certificate))
        {
            return Ok(());
        }
        match (&self.current, changed) {
            (Some(_), _) => tokio::time::sleep(SETTLE).await,
            (None, true) => tokio::time::sleep(SETTLE_FIRST).await,
            (None, false) => {}
        }
        tracing::info!(not_after = %certificate.not_after(), "serving a new certificate");
        self.metrics
            .certificate_expiry
            .set(certificate.not_after().unix_timestamp());
        self.served.set(&certificate);
        self.current = Some(certificate);
        Ok(())
    }

    /// Returns the certificate that all replicas share: read, or created if there is none or its
    /// renewal is due.
    async fn shared(&self) -> Result<WebhookCertificate, KeepError> {
        let secret = self
            .secrets
            .get_opt(&self.names.secret)
            .await
            .map_err(|source| self.secret_error("read", source))?;
        let now = OffsetDateTime::now_utc();
        let Some(secret) = secret else {
            let generated =
                WebhookCertificate::generate(&self.names.dns(), self.lifetime, now, None)?;
            tracing::info!(secret = self.names.secret, "creating the first certificate");
            return self.create(generated).await;
        };
        let existing = match WebhookCertificate::from_secret(
            secret.data.as_ref().unwrap_or(&Default::default()),
        ) {
            Ok(existing) => Some(existing),
            Err(error) => {
                tracing::warn!(%error, secret = self.names.secret, "the certificate in the Secret is not usable: creating another one");
                None
            }
        };
        if let Some(existing) = &existing
            && !existing.is_due(self.lifetime, now)
        {
            return Ok(existing.clone());
        }
        let generated =
            WebhookCertificate::generate(&self.names.dns(), self.lifetime, now, existing.as_ref())?;
        self.replace(secret, generated).await
    }

    async fn create(&self, generated: WebhookCertificate) -> Result<WebhookCertificate, KeepError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.names.secret.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(generated.secret_data()),
            ..Secret::default()
        };
        let created = self.secrets.create(&post(), &secret).await;
        self.written("created", created, generated)
    }

    /// Replaces the Secret at the version that was read, so that one of two concurrent replicas
    /// fails and reads it again.
    async fn replace(
        &self,
        mut secret: Secret,
        generated: WebhookCertificate,
    ) -> Result<WebhookCertificate, KeepError> {
        secret.data = Some(generated.secret_data());
        let replaced = self
            .secrets
            .replace(&self.names.secret, &post(), &secret)
            .await;
        self.written("replaced", replaced, generated)
    }

    fn written(
        &self,
        verb: &'static str,
        answer: kube::Result<Secret>,
        generated: WebhookCertificate,
    ) -> Result<WebhookCertificate, KeepError> {
        match answer {
            Ok(_) => Ok(generated),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(KeepError::Raced(self.names.secret.clone()))
            }
            Err(source) => Err(self.secret_error(verb, source)),
        }
    }

    /// Sets the caBundle of every webhook of the configuration that lacks it; returns whether one
    /// did.
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
        // A strategic merge patch identifies webhooks by name and keeps their other fields.
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
