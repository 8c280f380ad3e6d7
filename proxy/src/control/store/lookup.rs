//! Lookups of addresses: known ones take no lock, others are requested from the controller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Request, Store, StoreState};
use crate::routing::destination::WatchedDestination;

/// Most addresses that are held or requested; fewer than a controller watches for one proxy
/// (10,000). Beyond it those that were idle for a tenth of the idle time are removed, and if there
/// is none, a lookup is answered as if the controller were away.
pub(super) const MAX_ADDRESSES: usize = 8_000;
/// The result of a lookup.
pub enum Lookup {
    Found(Arc<WatchedDestination>),
    /// Nothing is known, and the controller does not answer.
    Unreachable,
}

impl Store {
    /// Looks an address up; requests it from the controller if it is unknown.
    pub async fn lookup(&self, address: SocketAddr) -> Lookup {
        if let Some(watched) = self.known(address) {
            return Lookup::Found(watched);
        }
        let Some(mut answered) = self.request_watch(address) else {
            return Lookup::Unreachable;
        };
        // Either error ends the wait. What counts is what is known then.
        let _ = tokio::time::timeout(self.remaining_wait(), answered.changed()).await;
        match self.known(address) {
            Some(watched) => Lookup::Found(watched),
            None => Lookup::Unreachable,
        }
    }

    fn known(&self, address: SocketAddr) -> Option<Arc<WatchedDestination>> {
        let watched = self.0.destinations.load().get(&address)?.lease();
        watched.touch(self.now());
        Some(watched)
    }

    /// Has the stream watch the address. Returns `None` if too many are requested.
    fn request_watch(&self, address: SocketAddr) -> Option<watch::Receiver<()>> {
        let mut state = self.state();
        if let Some(pending) = state.pending.get(&address) {
            return Some(pending.subscribe());
        }
        if self.is_full(&state) {
            drop(state);
            self.forget_unused(self.0.settings.idle / 10);
            state = self.state();
            if self.is_full(&state) {
                return None;
            }
        }
        let (sender, receiver) = watch::channel(());
        if self.0.destinations.load().contains_key(&address) {
            // Answered meanwhile: the sender is dropped here, which ends the wait.
            return Some(receiver);
        }
        state.pending.insert(address, sender);
        // Without a stream the wait times out.
        let _ = self.0.requests.send(Request::Watch(address));
        Some(receiver)
    }

    fn is_full(&self, state: &StoreState) -> bool {
        self.0.destinations.load().len() + state.pending.len() >= MAX_ADDRESSES
    }

    /// Returns how long to wait for an answer: once the controller has been away for that long,
    /// connections no longer wait.
    fn remaining_wait(&self) -> Duration {
        let wait = self.0.settings.wait;
        match *self.lost() {
            Some(since) => wait.saturating_sub(since.elapsed()),
            None => wait,
        }
    }
}
