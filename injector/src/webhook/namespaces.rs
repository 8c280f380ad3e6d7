//! Labels and annotations of namespaces: a watch of their metadata, and a direct read where the
//! watch may lag behind. A pod is often created within milliseconds after its namespace.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// The metadata of a namespace that the patch reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NamespaceMeta {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl From<ObjectMeta> for NamespaceMeta {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
        }
    }
}

type Meta = PartialObjectMeta<Namespace>;

#[derive(Clone)]
pub(super) struct Namespaces {
    api: Api<Meta>,
    store: Store<Meta>,
}

impl Namespaces {
    /// Returns the namespaces, and the writer for [`Namespaces::watch`].
    pub(super) fn new(client: Client) -> (Self, Writer<Meta>) {
        let (store, writer) = reflector::store();
        (
            Self {
                api: Api::all(client),
                store,
            },
            writer,
        )
    }

    /// Keeps the store in sync until `stop`; an interrupted watch is restarted with backoff.
    pub(super) async fn watch(&self, writer: Writer<Meta>, stop: CancellationToken) {
        let events = watcher(self.api.clone(), watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        let mut events = pin!(events);
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            if let Err(error) = event {
                tracing::warn!(%error, "watch of namespaces interrupted: trying again; check that the API server answers");
            }
        }
    }

    /// Returns the namespace from the store, which may lag behind.
    pub(super) fn cached(&self, name: &str) -> Option<NamespaceMeta> {
        self.store
            .get(&ObjectRef::new(name))
            .map(|meta| meta.metadata.clone().into())
    }

    /// Reads the namespace from the API server.
    pub(super) async fn get(&self, name: &str) -> kube::Result<NamespaceMeta> {
        self.api.get(name).await.map(|meta| meta.metadata.into())
    }
}
