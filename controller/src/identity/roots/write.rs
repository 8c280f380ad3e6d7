//! Writes the ConfigMap to the namespaces where it is outdated.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta, Patch};
use kube::{Api, Client};

use super::super::labels;
use super::super::metrics::{Metrics, WriteResult};
use super::content::{CONFIG_MAP, Data, outdated_namespaces};
use crate::kubernetes;

const CONCURRENT_WRITES: usize = 8;

/// The result of a write to one namespace.
enum Outcome {
    Written,
    Refused(String),
    /// The API server did not answer, or failed itself.
    Failed,
}

/// Writes the outdated ConfigMaps. Returns the namespaces that rejected it, or `None` if a write
/// failed.
pub(super) async fn write_all(
    client: &Client,
    wanted: &BTreeSet<String>,
    present: &BTreeMap<String, Data>,
    data: &Data,
    metrics: &Metrics,
) -> Option<BTreeSet<String>> {
    let writes: Vec<BoxFuture<'_, Outcome>> = outdated_namespaces(wanted, present, data)
        .into_iter()
        .map(|namespace| write(client, namespace, data, metrics).boxed())
        .collect();
    stream::iter(writes)
        .buffer_unordered(CONCURRENT_WRITES)
        .fold(Some(BTreeSet::new()), |refused, outcome| async move {
            let mut refused = refused?;
            match outcome {
                Outcome::Written => {}
                Outcome::Refused(namespace) => drop(refused.insert(namespace)),
                Outcome::Failed => return None,
            }
            Some(refused)
        })
        .await
}

async fn write(client: &Client, namespace: &str, data: &Data, metrics: &Metrics) -> Outcome {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels()),
            ..ObjectMeta::default()
        },
        data: Some(data.clone()),
        ..ConfigMap::default()
    };
    // By force: a namespace whose roots were edited by somebody else would be cut off.
    let params = kubernetes::apply();
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let apply = Patch::Apply(&map);
    let mut written = api.patch(CONFIG_MAP, &params, &apply).await;
    if matches!(&written, Err(kube::Error::Api(status)) if status.code == 422) {
        // It is most likely immutable, so it must be created again. Pods that mount it keep their
        // files.
        tracing::warn!(
            namespace,
            "ConfigMap {CONFIG_MAP} cannot be updated: creating it again"
        );
        written = match api.delete(CONFIG_MAP, &DeleteParams::default()).await {
            Ok(_) => api.patch(CONFIG_MAP, &params, &apply).await,
            Err(error) => Err(error),
        };
    }
    let error = match written {
        Ok(_) => {
            metrics.root_write(WriteResult::Ok);
            tracing::info!(namespace, "roots written");
            return Outcome::Written;
        }
        Err(kube::Error::Api(status)) if is_terminating(&status) => return Outcome::Written,
        Err(error) => error,
    };
    metrics.root_write(WriteResult::Error);
    tracing::warn!(
        namespace, %error,
        "ConfigMap {CONFIG_MAP} not written: trying again; check quotas and admission policies of \
         the namespace, and the controller's ClusterRole for this ConfigMap"
    );
    match error {
        kube::Error::Api(status) if is_refusal(status.code) => {
            Outcome::Refused(namespace.to_owned())
        }
        _ => Outcome::Failed,
    }
}

/// Returns true if the object was rejected, rather than the API server failed: quotas and policies
/// give 403, webhooks 400 or 403.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400 | 403 | 409 | 422)
}

/// Returns true if the namespace is terminating or deleted, so that no write is needed.
fn is_terminating(status: &kube::core::Status) -> bool {
    let terminating = status.details.as_ref().is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    });
    terminating || status.is_not_found()
}
