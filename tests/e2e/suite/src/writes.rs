//! Counts the writes of a kind's objects in a namespace, from a watch of the API server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use crate::TestNamespace;

/// Writes by object name; a deletion is not counted.
pub type Counts = BTreeMap<String, usize>;

/// The writes since the last call of [`Writes::when_quiet`].
pub struct Writes {
    counts: Arc<Mutex<Counts>>,
    watch: JoinHandle<anyhow::Result<()>>,
}

impl Writes {
    /// Starts counting.
    pub async fn of(ns: &TestNamespace, version: &str, kind: &str) -> anyhow::Result<Self> {
        let api = ns.api(version, kind);
        let now = api.list(&ListParams::default().limit(1)).await?;
        let mut from = now.metadata.resource_version.unwrap_or_default();
        let counts = Arc::new(Mutex::new(Counts::new()));
        let counted = Arc::clone(&counts);
        let watch = tokio::spawn(async move {
            // The API server ends watches; the next one continues from the last version.
            loop {
                let events = api.watch(&WatchParams::default(), &from).await?;
                let mut events = std::pin::pin!(events);
                while let Some(event) = events.next().await {
                    let (object, write) = match event? {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, 1),
                        WatchEvent::Deleted(object) => (object, 0),
                        WatchEvent::Bookmark(_) => continue,
                        WatchEvent::Error(error) => anyhow::bail!("the watch ended: {error:?}"),
                    };
                    from = object.metadata.resource_version.unwrap_or(from);
                    let mut counts = counted.lock().unwrap_or_else(PoisonError::into_inner);
                    *counts
                        .entry(object.metadata.name.unwrap_or_default())
                        .or_default() += write;
                }
            }
        });
        Ok(Self { counts, watch })
    }

    /// Returns the number of writes.
    pub fn sum(&self) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.values().sum()
    }

    /// Waits until nothing was written for this long, then returns and resets the counts.
    pub async fn when_quiet(&self, quiet: Duration) -> anyhow::Result<Counts> {
        loop {
            let before = self.sum();
            tokio::time::sleep(quiet).await;
            anyhow::ensure!(!self.watch.is_finished(), "the watch ended");
            if self.sum() == before {
                let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                counts.retain(|_, count| *count > 0);
                return Ok(std::mem::take(&mut *counts));
            }
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
