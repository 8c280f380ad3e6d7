//! Keeps one store like one kind in the cluster: watches, backs off, lists again, and never gives up.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::api::{Api, ApiResource};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kinds::Served;
use super::object::{Watchable, Watched};
use super::store::{Changed, Store, Unreadable};
use crate::metrics::ClusterMetrics;
use crate::retries::sleep_until;

/// What [`follow`] needs beside the store.
#[derive(Clone)]
pub(super) struct Follower {
    pub client: Client,
    /// Told of every change.
    pub changes: Changes,
    pub metrics: Arc<ClusterMetrics>,
    pub stop: CancellationToken,
}

/// Rings when a store changed.
#[derive(Clone, Debug)]
pub struct Changes {
    pub objects: watch::Sender<()>,
    pub statuses: watch::Sender<()>,
}

impl Changes {
    pub fn new() -> Self {
        Self {
            objects: watch::Sender::new(()),
            statuses: watch::Sender::new(()),
        }
    }

    fn ring(&self, changed: Changed) {
        if changed.objects {
            self.objects.send_replace(());
        }
        if changed.statuses {
            self.statuses.send_replace(());
        }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

/// Keeps `store` like the kind that `served` names, until `stop`.
pub(super) async fn follow<T>(
    follower: Follower,
    mut served: watch::Receiver<Served>,
    store: Arc<Store<T>>,
) where
    T: Watchable,
{
    loop {
        let now = served.borrow_and_update().clone();
        let following = async {
            match now {
                Served::Unknown => std::future::pending().await,
                Served::Absent => {
                    follower.changes.ring(store.absent());
                    std::future::pending().await
                }
                Served::As(kind) => follow_kind(&follower, &kind, &store).await,
            }
        };
        tokio::select! {
            () = following => {}
            changed = served.changed() => {
                // Nobody discovers any more: the process is ending.
                if changed.is_err() {
                    return;
                }
            }
            () = follower.stop.cancelled() => return,
        }
    }
}

/// Never returns: an API server that cannot stream the first list is asked for pages from then on.
async fn follow_kind<T>(follower: &Follower, kind: &ApiResource, store: &Store<T>)
where
    T: Watchable,
{
    let api = || Api::<Watched<T>>::all_with(follower.client.clone(), kind);
    let config = || match T::FIELDS {
        Some(fields) => watcher::Config::default().fields(fields),
        None => watcher::Config::default(),
    };
    let streaming = watcher(api(), config().streaming_lists());
    if take_in(follower, kind, store, streaming).await == Ended::ListsNotStreamed {
        tracing::info!(
            kind = kind.kind,
            "the API server does not stream lists: listing in pages"
        );
        let paged = watcher(api(), config().any_semantic());
        take_in(follower, kind, store, paged).await;
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    ListsNotStreamed,
    Stream,
}

async fn take_in<T>(
    follower: &Follower,
    kind: &ApiResource,
    store: &Store<T>,
    events: impl Stream<Item = watcher::Result<Event<Watched<T>>>> + Send,
) -> Ended
where
    T: PartialEq,
{
    let mut events = std::pin::pin!(events.default_backoff());
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(store.next_end()) => {
                follower.changes.ring(store.end(Instant::now()));
                continue;
            }
        };
        let Some(event) = event else {
            return Ended::Stream;
        };
        match event {
            Ok(event) => {
                let (changed, unreadable) = store.apply(event);
                if let Some(unreadable) = unreadable {
                    report(follower, kind, &unreadable);
                }
                follower.changes.ring(changed);
            }
            Err(error) if lists_not_streamed(&error) => return Ended::ListsNotStreamed,
            Err(error) => {
                follower.metrics.watch_error(&kind.kind);
                tracing::warn!(
                    kind = kind.kind,
                    %error,
                    "watch interrupted: going on with what is known and trying again; check that the API server \
                     answers and that the controller's account may list and watch this kind"
                );
            }
        }
    }
}

fn report(follower: &Follower, kind: &ApiResource, unreadable: &Unreadable) {
    follower.metrics.unreadable_object(&kind.kind);
    tracing::warn!(
        kind = kind.kind,
        object = %unreadable.key,
        reason = %unreadable.reason,
        "object skipped because it cannot be read: its last readable version, if any, stays in force"
    );
}

/// The API server refuses `sendInitialEvents`: it is older than streaming lists, or has them switched off.
fn lists_not_streamed(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(KubeError::Api(status)) => {
            matches!(status.code, 400 | 422)
        }
        _ => false,
    }
}
