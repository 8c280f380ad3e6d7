//! Keeps the ConfigMap with the trusted roots in every namespace whose pods need it. It also has
//! the addresses of the controllers' Service, for pods whose DNS does not resolve its name.
//!
//! These namespaces are those labelled for injection, those with a pod that opts in by its own
//! label, and those of Gateways. All replicas write the same content under the same name, so no
//! leader is needed. The ConfigMap stays when its namespace no longer needs it: running pods still
//! use it.
//!
//! Users with rights in a namespace can block the write there, by a quota or an admission policy.
//! An immutable ConfigMap is replaced; other rejections are logged and retried, and delay no other
//! namespace.

mod content;
mod write;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::trust::TrustReceiver;
use crate::snapshot::Snapshots;
use content::{data, present};
use write::write_all;

pub use content::{ADDRESSES, CONFIG_MAP, KEY, outdated_namespaces};

const SELECTOR: &str = "weft.dev/inject=enabled";

/// How long events are gathered before a pass.
const GATHER: Duration = Duration::from_millis(100);
/// How soon a pass with failures is repeated.
const RETRY: Duration = Duration::from_secs(5);
/// How often a pass is made without any event: roots expire.
const RESYNC: Duration = Duration::from_secs(3600);

/// The controllers' Service.
#[derive(Clone, Debug)]
pub struct ServiceName {
    pub namespace: String,
    pub name: &'static str,
}

/// The result of a pass over all namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteReport {
    pub text: String,
    /// How many namespaces need the ConfigMap.
    pub wanted: usize,
    /// The namespaces where the API server rejected it.
    pub refused: BTreeSet<String>,
}

impl WriteReport {
    /// Returns the namespaces that lack the ConfigMap; `None` while `text` is not written. If every
    /// namespace rejects it, the cause is not in the namespaces.
    pub fn without(&self, text: &str) -> Option<Vec<String>> {
        let all = self.refused.len() == self.wanted && self.wanted > 1;
        (self.text == text && !all).then(|| self.refused.iter().cloned().collect())
    }
}

/// An event of one of the four watches; `ready` once its initial list is complete.
struct WatchEvent {
    source: usize,
    ready: bool,
}

/// Keeps the ConfigMaps until `stop`. `written` receives the result of each pass.
pub async fn keep(
    client: Client,
    service: ServiceName,
    mut trust: TrustReceiver,
    mut snapshots: Snapshots,
    written: watch::Sender<WriteReport>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let labelled = watcher::Config::default().labels(SELECTOR);
    let named = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let (namespaces, a) = follow::<PartialObjectMeta<Namespace>>(0, &client, labelled.clone());
    let (pods, b) = follow::<PartialObjectMeta<Pod>>(1, &client, labelled);
    let (maps, c) = follow::<ConfigMap>(2, &client, named);
    let ServiceName { namespace, name } = service;
    let own = format!("metadata.namespace={namespace},metadata.name={name}");
    let own = watcher::Config::default().fields(&own);
    let (services, d) = follow::<Service>(3, &client, own);
    let mut events = stream::select_all([a, b, c, d]);
    let mut ready = [false; 4];
    let mut due = Instant::now() + RESYNC;
    let mut of_gateways = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(item) = events.next() => {
                if let Some(slot) = ready.get_mut(item.source) {
                    *slot |= item.ready;
                }
                due = due.min(Instant::now() + GATHER);
            }
            changed = trust.changed() => {
                if changed.is_err() {
                    return;
                }
                due = Instant::now();
            }
            Ok(()) = snapshots.changed() => {
                let now = snapshots.borrow_and_update();
                if let Some(snapshot) = now.as_ref()
                    && snapshot.gateway_namespaces != of_gateways
                {
                    of_gateways = snapshot.gateway_namespaces.clone();
                    due = Instant::now();
                }
            }
            () = tokio::time::sleep_until(due), if ready == [true; 4] => {
                let text = trust.borrow_and_update().roots.pem(OffsetDateTime::now_utc());
                let data = data(&text, &services.state());
                let mut wanted = wanted(&namespaces, &pods);
                wanted.extend(of_gateways.iter().cloned());
                let refused = write_all(&client, &wanted, &present(&maps.state()), &data, &metrics).await;
                let whole = refused.as_ref().is_some_and(BTreeSet::is_empty);
                due = Instant::now() + if whole { RESYNC } else { RETRY };
                if let Some(refused) = refused {
                    written.send_replace(WriteReport { text, wanted: wanted.len(), refused });
                }
            }
        }
    }
}

/// Watches one kind into a store that keeps only the needed metadata of each object.
fn follow<K>(
    source: usize,
    client: &Client,
    config: watcher::Config,
) -> (Store<K>, BoxStream<'static, WatchEvent>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    K: serde::de::DeserializeOwned,
{
    let (store, writer) = reflector::store();
    let watched = watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .modify(|object| {
            let meta = object.meta_mut();
            *meta = ObjectMeta {
                name: meta.name.take(),
                namespace: meta.namespace.take(),
                deletion_timestamp: meta.deletion_timestamp.take(),
                ..ObjectMeta::default()
            };
        })
        .reflect(writer)
        .map(move |event| match event {
            Ok(event) => WatchEvent {
                source,
                ready: matches!(event, Event::InitDone),
            },
            Err(error) => {
                tracing::warn!(
                    kind = %K::kind(&()), %error,
                    "watch interrupted: the ConfigMaps of the roots are kept by what is known; check \
                     that the API server answers"
                );
                WatchEvent {
                    source,
                    ready: false,
                }
            }
        });
    (store, watched.boxed())
}

fn wanted(
    namespaces: &Store<PartialObjectMeta<Namespace>>,
    pods: &Store<PartialObjectMeta<Pod>>,
) -> BTreeSet<String> {
    let labelled = namespaces.state();
    let labelled = labelled
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
        .map(|namespace| namespace.name_any());
    let opted_in = pods.state();
    let opted_in = opted_in.iter().filter_map(|pod| pod.namespace());
    labelled.chain(opted_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_namespaces_may_lack_the_config_map_but_not_all() {
        let written = |wanted: usize, refused: &[&str]| WriteReport {
            text: "text".to_owned(),
            wanted,
            refused: refused.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(written(3, &[]).without("text"), Some(vec![]));
        assert_eq!(written(3, &[]).without("other"), None, "not written yet");
        let one = Some(vec!["tenant".to_owned()]);
        assert_eq!(written(3, &["tenant"]).without("text"), one);
        assert_eq!(written(2, &["a", "b"]).without("text"), None);
    }
}
