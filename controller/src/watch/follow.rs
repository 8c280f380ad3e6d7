//! Keeps one store in sync with one kind of the cluster: watches, backs off, lists again, and never
//! gives up.

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

/// The dependencies of [`follow`].
#[derive(Clone)]
pub(super) struct Follower {
    pub client: Client,
    /// Notified of every change.
    pub changes: Changes,
    pub metrics: Arc<ClusterMetrics>,
    pub stop: CancellationToken,
}

/// Notifies of changes of stores.
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

    fn notify(&self, changed: Changed) {
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

/// Keeps `store` in sync with the kind in `served`, until `stop`.
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
                    follower.changes.notify(store.absent());
                    std::future::pending().await
                }
                Served::As(kind) => follow_kind(&follower, &kind, &store).await,
            }
        };
        tokio::select! {
            () = following => {}
            changed = served.changed() => {
                // Discovery has ended: the process stops.
                if changed.is_err() {
                    return;
                }
            }
            () = follower.stop.cancelled() => return,
        }
    }
}

/// Watches a kind; never returns. If the API server cannot stream the initial list, it is listed in
/// pages from then on.
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
    if apply_events(follower, kind, store, streaming).await == Ended::ListsNotStreamed {
        tracing::info!(
            kind = kind.kind,
            "the API server does not support streaming lists: listing in pages"
        );
        let paged = watcher(api(), config().any_semantic());
        apply_events(follower, kind, store, paged).await;
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    ListsNotStreamed,
    Stream,
}

async fn apply_events<T>(
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
                follower.changes.notify(store.end(Instant::now()));
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
                follower.changes.notify(changed);
            }
            Err(error) if lists_not_streamed(&error) => return Ended::ListsNotStreamed,
            Err(error) => {
                follower.metrics.watch_error(&kind.kind);
                tracing::warn!(
                    kind = kind.kind,
                    %error,
                    "watch interrupted: keeping what is known and trying again; check that the API \
                     server answers and that the account of this process may list and watch this \
                     kind"
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
        "object skipped because it cannot be read: its last readable version, if any, stays in \
         force"
    );
}

/// Returns true if the API server rejects `sendInitialEvents`: it does not support streaming lists,
/// or has them disabled.
fn lists_not_streamed(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(KubeError::Api(status)) => {
            matches!(status.code, 400 | 422)
        }
        _ => false,
    }
}
