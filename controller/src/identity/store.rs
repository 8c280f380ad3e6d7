//! The Secret of the root: created when absent, read at the start, and watched.
//!
//! Keys: `tls.crt` (the signer, then the chain up to the root), `tls.key`, and optionally `ca.crt`
//! with other trusted roots. A rotation (`crate::rotation`) keeps its state there: `next.crt` and
//! `next.key`, `previous.crt`, `withdrawn.crt`. A Secret that is not usable never replaces one that
//! is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use kube::runtime::{WatchStreamExt, watcher::watch_object};
use kube::{Api, Client};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use super::ca::{self, Authority, SignError};
use super::load_error::LoadError;
use super::metrics::Metrics;
use super::trust::{Trust, TrustReceiver};
use crate::kubernetes;

/// How long a Secret may be absent before the root in use is written back: time to create another
/// in its place.
const WRITE_BACK: Duration = Duration::from_secs(10);
/// How soon a failed start is retried.
const RETRY: Duration = Duration::from_secs(3);

type Data = BTreeMap<String, ByteString>;

/// The Secret that holds the root.
#[derive(Clone)]
pub struct SecretStore {
    pub client: Client,
    pub namespace: String,
    pub name: String,
    pub metrics: Metrics,
}

/// The Secret as last seen, usable or not; `None` while it is absent.
pub type SecretReceiver = watch::Receiver<Option<Arc<Secret>>>;

/// Why the root is not available.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "Secret {secret}: cannot {action}: {reason}; check the controller's Role in that namespace"
    )]
    Kubernetes {
        secret: String,
        action: &'static str,
        #[source]
        reason: Box<kube::Error>,
    },
    #[error("Secret {secret} is not usable: {error}")]
    Unusable {
        secret: String,
        #[source]
        error: SecretError,
    },
    #[error("generating a root: {0}")]
    Generate(#[from] SignError),
}

/// Why the Secret's content is not usable.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SecretError {
    #[error("its key {0} is absent or empty; a kubernetes.io/tls Secret has tls.crt and tls.key")]
    Missing(&'static str),
    #[error(transparent)]
    Content(#[from] LoadError),
    #[error("the next root (next.crt, next.key): {0}")]
    Next(#[source] LoadError),
}

/// Parses the Secret's content. Pure.
pub fn read(
    data: &BTreeMap<String, ByteString>,
    now: OffsetDateTime,
) -> Result<Trust, SecretError> {
    let get = |key: &'static str| {
        data.get(key)
            .map(|bytes| bytes.0.as_slice())
            .filter(|bytes| !bytes.is_empty())
    };
    let certificates = get("tls.crt").ok_or(SecretError::Missing("tls.crt"))?;
    let key = get("tls.key").ok_or(SecretError::Missing("tls.key"))?;
    let additional = Bundle::from_pem("ca.crt", get("ca.crt").unwrap_or_default())?;
    let authority = Authority::load(certificates, key, &additional, now)?;
    let next = match (get("next.crt"), get("next.key")) {
        (Some(certificates), Some(key)) => {
            let next = Authority::load(certificates, key, &Bundle::default(), now);
            Some(next.map_err(SecretError::Next)?)
        }
        _ => None,
    };
    let bundle = |key: &'static str| Bundle::from_pem(key, get(key).unwrap_or_default());
    let previous = bundle("previous.crt")?.unexpired(now);
    let trust = Trust::new(authority, &additional)?;
    Ok(trust.rotating(next.as_ref(), &previous, bundle("withdrawn.crt")?)?)
}

impl SecretStore {
    /// Loads the root, retrying until there is a usable one, and follows the Secret in a task until
    /// `stop`. Returns `None` if `stop` comes before.
    pub async fn start(self, stop: CancellationToken) -> Option<(TrustReceiver, SecretReceiver)> {
        let (trust, data) = loop {
            match self.load_or_create().await {
                Ok(found) => break found,
                Err(error) => {
                    self.metrics.secret_error();
                    tracing::error!(%error, "loading the root failed: trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(RETRY) => {}
            }
        };
        let (sender, receiver) = watch::channel(Arc::new(trust));
        let (seen, secrets) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.follow(sender, seen, data) => {}
            }
        });
        Some((receiver, secrets))
    }

    /// Loads the root, or creates one. If several controllers create one at once, the first wins
    /// and the others read it.
    pub async fn load_or_create(&self) -> Result<(Trust, Data), StoreError> {
        let found = self
            .api()
            .get_opt(&self.name)
            .await
            .map_err(|e| self.kubernetes("read it", e))?;
        let secret = match found {
            Some(secret) => secret,
            None => {
                let root = ca::new_root(OffsetDateTime::now_utc())?;
                self.create_or_read(root_data(root)).await?
            }
        };
        let data = secret.data.unwrap_or_default();
        let trust = read(&data, OffsetDateTime::now_utc()).map_err(|error| self.unusable(error))?;
        Ok((trust, data))
    }

    async fn create_or_read(&self, data: Data) -> Result<Secret, StoreError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(super::labels()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        match self.api().create(&kubernetes::post(), &secret).await {
            Ok(created) => {
                tracing::info!(secret = %self.path(), "root created");
                Ok(created)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => self
                .api()
                .get(&self.name)
                .await
                .map_err(|e| self.kubernetes("read it", e)),
            Err(error) => Err(self.kubernetes("create it", error)),
        }
    }

    async fn follow(
        &self,
        sender: watch::Sender<Arc<Trust>>,
        seen: watch::Sender<Option<Arc<Secret>>>,
        mut last: Data,
    ) {
        let mut changes = Box::pin(watch_object(self.api(), &self.name).default_backoff());
        let mut missing = false;
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = tokio::time::sleep(WRITE_BACK), if missing => {
                    missing = self.write_back(&last).await.is_err();
                    continue;
                }
            };
            match change {
                Some(Ok(Some(secret))) => {
                    missing = false;
                    let data = secret.data.clone().unwrap_or_default();
                    self.take(&sender, data, &mut last);
                    seen.send_replace(Some(Arc::new(secret)));
                }
                Some(Ok(None)) => {
                    missing = true;
                    seen.send_replace(None);
                    tracing::warn!(
                        secret = %self.path(),
                        "the root's Secret was deleted: the root in use is written back unless another \
                         is created"
                    );
                }
                Some(Err(error)) => {
                    tracing::warn!(
                        secret = %self.path(), %error,
                        "watch of the root's Secret interrupted: trying again; check the \
                         controller's Role in that namespace"
                    );
                }
                None => return,
            }
        }
    }

    /// Takes a changed Secret into use, if it is usable.
    fn take(&self, sender: &watch::Sender<Arc<Trust>>, data: Data, last: &mut Data) {
        if data == *last {
            return;
        }
        let now = OffsetDateTime::now_utc();
        let next = read(&data, now).and_then(|new| Ok(new.succeeding(&sender.borrow(), now)?));
        match next {
            Ok(trust) => {
                let (phase, roots) = (trust.phase.name(), trust.roots.len());
                tracing::info!(secret = %self.path(), phase, roots, "the root or the phase of its rotation changed");
                *last = data;
                sender.send_replace(Arc::new(trust));
            }
            Err(error) => {
                self.metrics.secret_error();
                tracing::error!(error = %self.unusable(error), "the last usable root stays in use");
            }
        }
    }

    async fn write_back(&self, data: &Data) -> Result<(), StoreError> {
        self.create_or_read(data.clone())
            .await
            .map(|_| ())
            .inspect_err(|error| tracing::error!(%error, "writing back the root's Secret failed: trying again"))
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn unusable(&self, error: SecretError) -> StoreError {
        StoreError::Unusable {
            secret: self.path(),
            error,
        }
    }

    fn kubernetes(&self, action: &'static str, error: kube::Error) -> StoreError {
        StoreError::Kubernetes {
            secret: self.path(),
            action,
            reason: Box::new(error),
        }
    }
}

/// The Secret's data for a root.
fn root_data(root: ca::RootPem) -> Data {
    BTreeMap::from([
        (
            "tls.crt".to_owned(),
            ByteString(root.certificate.into_bytes()),
        ),
        ("tls.key".to_owned(), ByteString(root.key.into_bytes())),
    ])
}
