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

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{DeleteParams, ObjectMeta, PartialObjectMeta, Patch};
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
use crate::kubernetes;
use crate::snapshot::Snapshots;

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "weft-roots";
/// The ConfigMap's key with the roots.
pub const KEY: &str = "ca.crt";
/// The ConfigMap's key with the addresses, one in each line.
pub const ADDRESSES: &str = "controller";
const SELECTOR: &str = "weft.dev/inject=enabled";

/// How long events are gathered before a pass.
const GATHER: Duration = Duration::from_millis(100);
/// How soon a pass with failures is repeated.
const RETRY: Duration = Duration::from_secs(5);
/// How often a pass is made without any event: roots expire.
const RESYNC: Duration = Duration::from_secs(3600);
const CONCURRENT_WRITES: usize = 8;

/// The data of the ConfigMap.
type Data = BTreeMap<String, String>;

/// Returns the wanted namespaces whose ConfigMap is absent or has other data. Keys of other writers
/// are ignored.
pub fn outdated_namespaces<'a>(
    wanted: &'a BTreeSet<String>,
    present: &BTreeMap<String, Data>,
    data: &Data,
) -> Vec<&'a str> {
    let same = |there: &Data| {
        let mut keys = [KEY, ADDRESSES].into_iter();
        keys.all(|key| there.get(key) == data.get(key))
    };
    wanted
        .iter()
        .filter(|namespace| !present.get(*namespace).is_some_and(same))
        .map(String::as_str)
        .collect()
}

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

/// The result of a write to one namespace.
enum Outcome {
    Written,
    Refused(String),
    /// The API server did not answer, or failed itself.
    Failed,
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
                let refused = write_all(&client, &wanted, &present(&maps), &data, &metrics).await;
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

fn present(maps: &Store<ConfigMap>) -> BTreeMap<String, Data> {
    maps.state()
        .iter()
        .filter_map(|map| Some((map.namespace()?, map.data.clone().unwrap_or_default())))
        .collect()
}

fn data(roots: &str, services: &[Arc<Service>]) -> Data {
    let mut data = Data::from([(KEY.to_owned(), roots.to_owned())]);
    let addresses = services.iter().filter_map(|service| service.spec.as_ref());
    let addresses: Vec<&str> = addresses
        .flat_map(|spec| spec.cluster_ips.iter().flatten())
        .map(String::as_str)
        // A headless Service has `None` there.
        .filter(|address| address.parse::<IpAddr>().is_ok())
        .collect();
    if !addresses.is_empty() {
        data.insert(ADDRESSES.to_owned(), addresses.join("\n"));
    }
    data
}

/// Writes the outdated ConfigMaps. Returns the namespaces that rejected it, or `None` if a write
/// failed.
async fn write_all(
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
            labels: Some(super::labels()),
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
            metrics.root_write("ok");
            tracing::info!(namespace, "roots written");
            return Outcome::Written;
        }
        Err(kube::Error::Api(status)) if is_terminating(&status) => return Outcome::Written,
        Err(error) => error,
    };
    metrics.root_write("error");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ips: &[&str]) -> Arc<Service> {
        let spec = serde_json::json!({ "spec": { "clusterIPs": ips } });
        Arc::new(serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn namespaces_with_absent_or_other_data_are_outdated() {
        let wanted = ["absent", "edited", "empty", "moved", "right"].map(str::to_owned);
        let of = |roots: &str, ip: &str| data(roots, &[service(&[ip])]);
        let mut right = of("text", "10.0.0.1");
        right.insert("theirs".to_owned(), "more".to_owned());
        let present = BTreeMap::from([
            ("edited".to_owned(), of("other", "10.0.0.1")),
            ("empty".to_owned(), Data::new()),
            ("moved".to_owned(), of("text", "10.0.0.2")),
            ("right".to_owned(), right),
            ("unwanted".to_owned(), of("other", "10.0.0.1")),
        ]);
        let wanted = wanted.into_iter().collect();
        assert_eq!(
            outdated_namespaces(&wanted, &present, &of("text", "10.0.0.1")),
            ["absent", "edited", "empty", "moved"]
        );
    }

    #[test]
    fn addresses_are_of_both_families_or_absent() {
        let both = data("", &[service(&["10.0.0.1", "fd00::1"])]);
        assert_eq!(
            both.get(ADDRESSES).map(String::as_str),
            Some("10.0.0.1\nfd00::1")
        );
        for none in [&[][..], &["None"]] {
            assert_eq!(data("", &[service(none)]).get(ADDRESSES), None);
        }
        assert_eq!(data("", &[]).get(ADDRESSES), None);
    }

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
