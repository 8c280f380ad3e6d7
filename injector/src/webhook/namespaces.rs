//! Labels and annotations of namespaces: a watch on their metadata, and a direct read where the watch may be
//! behind. A pod often follows its namespace within milliseconds.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// What the patch reads of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl From<ObjectMeta> for About {
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
    /// The writer goes to [`Namespaces::watch`].
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

    /// Keeps the store current until `stop`; a broken watch is taken up again with growing pauses.
    pub(super) async fn watch(&self, writer: Writer<Meta>, stop: CancellationToken) {
        let events = watcher(self.api.clone(), watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        let mut events = pin!(events);
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            if let Err(error) = event {
                tracing::warn!(%error, "the watch on namespaces broke and is taken up again");
            }
        }
    }

    /// What is known without asking anybody; perhaps behind, perhaps nothing.
    pub(super) fn known(&self, name: &str) -> Option<About> {
        self.store
            .get(&ObjectRef::new(name))
            .map(|meta| meta.metadata.clone().into())
    }

    /// What Kubernetes says now.
    pub(super) async fn ask(&self, name: &str) -> kube::Result<About> {
        self.api.get(name).await.map(|meta| meta.metadata.into())
    }
}
