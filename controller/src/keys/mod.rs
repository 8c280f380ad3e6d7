//! The keys of token issuers: the leader fetches the sets that AuthenticationPolicies name and
//! writes them to the ConfigMap that every replica reads ([`crate::watch::keys`]). Proxies need no
//! way out of the cluster.
//!
//! A set that cannot be fetched any more stays as it was fetched last.

mod addresses;
mod fetch;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_translate::objects::{FetchedKeys, KeySource};

use crate::kubernetes::{self, FIELD_MANAGER, MANAGED_BY};
use crate::metrics::{KeySetCounts, Metrics};
use crate::retries::{Retries, sleep_until};
use crate::snapshot::Snapshots;
use crate::watch::World;
use crate::watch::keys::{CONFIG_MAP, KEY};
use fetch::{FetchError, fetch};

/// How old a set is when it is fetched again, less up to a tenth.
const REFRESH: Duration = Duration::from_secs(300);
/// Sets that are fetched.
const MAX_SOURCES: usize = 64;
/// Bytes of all sets: a ConfigMap has at most a MiB.
const MAX_BYTES: usize = 768 << 10;
/// Sets that are fetched at once.
const CONCURRENT: usize = 8;
/// The wait after a failed write.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Fetches key sets while this replica leads.
pub struct KeyFetcher {
    pub client: Client,
    pub namespace: String,
    /// Networks that nothing is sent to.
    pub denied: Vec<IpNet>,
    pub world: Arc<World>,
    pub snapshots: Snapshots,
    pub leader: watch::Receiver<bool>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

/// What is known of the sets, and when each is due.
#[derive(Debug, Default)]
struct Sets {
    known: HashMap<KeySource, FetchedKeys>,
    due: HashMap<KeySource, Instant>,
    retries: Retries<KeySource>,
}

impl Sets {
    /// Takes what was read from the ConfigMap, unless something newer is known.
    fn adopt(&mut self, read: &[Arc<FetchedKeys>]) {
        for of in read {
            let known = self.known.entry(of.source.clone());
            known.or_insert_with(|| FetchedKeys::clone(of));
        }
    }

    /// Drops what is not wanted any more.
    fn retain(&mut self, wanted: &[KeySource]) {
        let wanted: HashSet<&KeySource> = wanted.iter().collect();
        self.known.retain(|of, _| wanted.contains(of));
        self.due.retain(|of, _| wanted.contains(of));
        self.retries.retain(|of| wanted.contains(of));
    }

    /// Returns the sets to fetch now.
    fn due(&self, wanted: &[KeySource], now: Instant) -> Vec<KeySource> {
        let is_due = |of: &&KeySource| {
            self.due.get(*of).is_none_or(|due| *due <= now) && self.retries.is_due(of, now)
        };
        wanted
            .iter()
            .take(MAX_SOURCES)
            .filter(is_due)
            .cloned()
            .collect()
    }

    fn counts(&self, wanted: &[KeySource]) -> KeySetCounts {
        let mut counts = KeySetCounts::default();
        for source in wanted {
            let known = self.known.get(source);
            let count = match known.map(|of| (of.jwks.is_some(), of.failure.is_some())) {
                Some((true, false)) => &mut counts.current,
                Some((true, true)) => &mut counts.stale,
                Some((false, _)) | None => &mut counts.absent,
            };
            *count += 1;
        }
        counts
    }

    /// Returns when the next one is due.
    fn next(&self) -> Option<Instant> {
        self.due.values().copied().chain(self.retries.next()).min()
    }

    /// Records the outcome of an attempt. `jitter`: between 0 and 1.
    fn fetched(
        &mut self,
        source: KeySource,
        outcome: Result<String, FetchError>,
        now: Instant,
        jitter: f64,
    ) {
        let known = self.known.entry(source.clone()).or_insert(FetchedKeys {
            source: source.clone(),
            jwks: None,
            failure: None,
        });
        match outcome {
            Ok(text) => {
                known.jwks = Some(text);
                known.failure = None;
                self.retries.succeeded(&source);
                self.due
                    .insert(source, now + REFRESH.mul_f64(1.0 - jitter / 10.0));
            }
            Err(error) => {
                known.failure = Some(error.to_string());
                self.due.remove(&source);
                self.retries.failed(source, now);
            }
        }
    }

    /// Returns what is written, as far as it has room. What is left out counts as not fetched.
    fn written(&self, wanted: &[KeySource]) -> Vec<FetchedKeys> {
        let mut room = MAX_BYTES;
        let mut all = Vec::new();
        for (place, source) in wanted.iter().enumerate() {
            let known = self.known.get(source).cloned();
            let known = known.or_else(|| (place >= MAX_SOURCES).then(|| too_many(source)));
            let Some(known) = known else { continue };
            // Without room for its keys, there can be room to say so.
            let mut sized = [known, too_many(source)]
                .into_iter()
                .map(|of| (size(&of), of));
            if let Some((size, of)) = sized.find(|(size, _)| *size <= room) {
                room -= size;
                all.push(of);
            }
        }
        all
    }
}

/// Returns the bytes that a set takes in the ConfigMap.
fn size(of: &FetchedKeys) -> usize {
    serde_json::to_string(of).map_or(0, |text| text.len())
}

fn too_many(source: &KeySource) -> FetchedKeys {
    FetchedKeys {
        source: source.clone(),
        jwks: None,
        failure: Some(FetchError::TooMany.to_string()),
    }
}

impl KeyFetcher {
    /// Runs until `stop`.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                if self.leader.wait_for(|leads| *leads).await.is_err() {
                    return;
                }
                self.lead().await;
                // Another replica counts them now.
                self.metrics.set_key_sets(KeySetCounts::default());
            }
        })
        .await;
    }

    /// Fetches and writes until another replica leads.
    async fn lead(&mut self) {
        let mut sets = Sets::default();
        let mut leader = self.leader.clone();
        let mut snapshots = self.snapshots.clone();
        let mut failed_write = None;
        while *leader.borrow_and_update() {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                let wanted = &snapshot.key_sources;
                sets.adopt(&self.world.fetched_keys.objects());
                sets.retain(wanted);
                self.fetch(&mut sets, wanted).await;
                self.metrics.set_key_sets(sets.counts(wanted));
                let wrote = self.write(&sets.written(wanted)).await;
                failed_write = (!wrote).then(|| Instant::now() + WRITE_AGAIN);
            }
            let next = sets.next().into_iter().chain(failed_write).min();
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                changed = leader.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
        }
    }

    async fn fetch(&self, sets: &mut Sets, wanted: &[KeySource]) {
        let due = sets.due(wanted, Instant::now());
        let attempts = due.into_iter().map(|source| async move {
            let outcome = fetch(&source, &self.denied).await;
            (source, outcome)
        });
        let mut attempts = futures::stream::iter(attempts).buffer_unordered(CONCURRENT);
        while let Some((source, outcome)) = attempts.next().await {
            let result = outcome.as_ref().map_or_else(|of| of.label(), |_| "success");
            self.metrics.key_fetch(result);
            if let Err(error) = &outcome {
                tracing::warn!(
                    uri = source.uri, %error,
                    "keys of a token issuer not fetched: the last ones stay in use, and it is tried \
                     again"
                );
            }
            sets.fetched(source, outcome, Instant::now(), fastrand::f64());
        }
    }

    /// Returns false if it has to be tried again. Without any set there is no ConfigMap.
    async fn write(&self, keys: &[FetchedKeys]) -> bool {
        let read = self.world.fetched_keys.objects();
        if read.iter().map(|of| of.as_ref()).eq(keys) {
            return true;
        }
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let written = match keys {
            [] => delete(&api).await,
            keys => self.apply(&api, keys).await,
        };
        if let Err(error) = &written {
            tracing::warn!(
                config_map = CONFIG_MAP, %error,
                "keys of token issuers not written: trying again; check that the controller's \
                 account may patch and delete this ConfigMap"
            );
        }
        written.is_ok()
    }

    async fn apply(&self, api: &Api<ConfigMap>, keys: &[FetchedKeys]) -> kube::Result<()> {
        let text = serde_json::to_string(keys).map_err(kube::Error::SerdeError)?;
        let labels = [(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned())];
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels.into()),
                ..ObjectMeta::default()
            },
            data: Some([(KEY.to_owned(), text)].into()),
            ..ConfigMap::default()
        };
        let patch = Patch::Apply(&map);
        let written = api.patch(CONFIG_MAP, &kubernetes::apply(), &patch).await;
        written.map(drop)
    }
}

async fn delete(api: &Api<ConfigMap>) -> kube::Result<()> {
    match api.delete(CONFIG_MAP, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str) -> KeySource {
        KeySource {
            uri: uri.to_owned(),
            ca: None,
        }
    }

    fn wanted(uris: &[&str]) -> Vec<KeySource> {
        uris.iter().map(|uri| source(uri)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn sets_are_fetched_again_and_outlive_failures() {
        let mut sets = Sets::default();
        let all = wanted(&["a", "b"]);
        let start = Instant::now();
        assert_eq!(sets.due(&all, start).len(), 2);
        sets.fetched(source("a"), Ok("1".to_owned()), start, 1.0);
        sets.fetched(source("b"), Err(FetchError::Connect), start, 0.0);
        assert_eq!(sets.next(), Some(start + Duration::from_secs(1)));
        assert!(sets.due(&all, start).is_empty());
        let later = start + Duration::from_secs(1);
        assert_eq!(sets.due(&all, later), [source("b")]);
        assert_eq!(sets.counts(&all).current, 1);
        let later = start + Duration::from_secs(270);
        assert_eq!(sets.due(&all, later), [source("a"), source("b")]);
        sets.fetched(source("a"), Err(FetchError::Timeout), later, 0.0);
        let counts = sets.counts(&wanted(&["a", "b", "c"]));
        let expected = KeySetCounts {
            current: 0,
            stale: 1,
            absent: 2,
        };
        assert_eq!(counts, expected);
        let written = sets.written(&all);
        assert_eq!(written[0].jwks.as_deref(), Some("1"));
        let failure = "the server did not answer within 5 seconds";
        assert_eq!(written[0].failure.as_deref(), Some(failure));
        assert_eq!(written[1].jwks, None);
        // What is not wanted any more goes.
        sets.retain(&wanted(&["b"]));
        assert_eq!(sets.known.len(), 1);
    }

    /// The last good keys outlive a restart of the controller.
    #[tokio::test(start_paused = true)]
    async fn new_leader_goes_on_with_what_was_written() {
        let mut sets = Sets::default();
        let stored = FetchedKeys {
            source: source("a"),
            jwks: Some("1".to_owned()),
            failure: None,
        };
        sets.adopt(&[Arc::new(stored)]);
        let all = wanted(&["a"]);
        assert_eq!(sets.due(&all, Instant::now()), [source("a")]);
        sets.fetched(source("a"), Err(FetchError::Resolve), Instant::now(), 0.0);
        assert_eq!(sets.written(&all)[0].jwks.as_deref(), Some("1"));
    }

    /// A ConfigMap that is too large would not be written, and no replica would get new keys.
    #[test]
    fn sources_that_are_not_fetched_are_bounded_too() {
        let mut sets = Sets::default();
        let long = |number: usize| source(&format!("https://{number:04}/{}", "a".repeat(2000)));
        let all: Vec<KeySource> = (0..2000).map(long).collect();
        sets.fetched(all[0].clone(), Ok("1".to_owned()), Instant::now(), 0.0);
        let written = sets.written(&all);
        assert_eq!(written[0].jwks.as_deref(), Some("1"));
        let text = serde_json::to_string(&written).unwrap();
        assert!(text.len() < 1 << 20, "{}", text.len());
    }

    #[tokio::test(start_paused = true)]
    async fn number_and_size_of_sets_are_bounded() {
        let mut sets = Sets::default();
        let uris: Vec<String> = (0..70).map(|number| format!("{number:02}")).collect();
        let all: Vec<KeySource> = uris.iter().map(|uri| source(uri)).collect();
        let due = sets.due(&all, Instant::now());
        assert_eq!(due.len(), MAX_SOURCES);
        for source in due {
            sets.fetched(source, Ok("a".repeat(16 << 10)), Instant::now(), 0.0);
        }
        let written = sets.written(&all);
        assert_eq!(written.len(), 70);
        let text = serde_json::to_string(&written).unwrap();
        assert!(text.len() < 1 << 20, "{}", text.len());
        let why = FetchError::TooMany.to_string();
        let refused = written
            .iter()
            .filter(|of| of.failure.as_ref() == Some(&why));
        assert!(refused.count() >= 6);
        assert!(written[0].jwks.is_some());
    }
}
