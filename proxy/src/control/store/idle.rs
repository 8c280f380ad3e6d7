//! Removal of idle destinations, so that a proxy holds only what its pod talks to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_ir::ResourceKey;

use super::{Request, Store};
use crate::clock::Timestamp;

impl Store {
    /// Removes destinations that were unused for the idle time, and requests that nobody waits for;
    /// never while the controller is away, as they could not be learnt again.
    pub fn sweep(&self) {
        self.forget_unused(self.0.settings.idle);
    }

    pub(super) fn forget_unused(&self, idle: Duration) {
        if !self.connected() {
            return;
        }
        let mut state = self.state();
        let now = self.now();
        let mut gone = self.forget_idle(now, idle);
        state.pending.retain(|address, waiting| {
            let waited_for = waiting.receiver_count() > 0;
            if !waited_for {
                gone.push(*address);
            }
            waited_for
        });
        for address in gone {
            state.versions.remove(&ResourceKey::Destination(address));
            let _ = self.0.requests.send(Request::Unwatch(address));
        }
        state.sweep_clusters();
        self.update_gauges(&state);
    }

    /// Removes idle destinations from the published map.
    fn forget_idle(&self, now: Timestamp, idle: Duration) -> Vec<SocketAddr> {
        let published = self.0.destinations.load_full();
        let mut kept = HashMap::clone(&published);
        drop(published);
        let mut idle_ones = Vec::new();
        kept.retain(|_, watched| {
            let unused = !watched.is_leased() && now.since(watched.last_used()) >= idle;
            if unused {
                idle_ones.push(Arc::clone(watched));
            }
            !unused
        });
        if idle_ones.is_empty() {
            return Vec::new();
        }
        self.0.destinations.store(Arc::new(kept.clone()));
        let (mut gone, mut taken) = (Vec::new(), Vec::new());
        for watched in idle_ones {
            let address = watched.address;
            match Arc::try_unwrap(watched) {
                // No map has it any more, so no lookup can take a lease.
                Ok(owner) if !owner.is_leased() => gone.push(address),
                // A lookup has taken it from the old map, or still reads that map.
                Ok(owner) => taken.push((address, Arc::new(owner))),
                Err(shared) => taken.push((address, shared)),
            }
        }
        if !taken.is_empty() {
            kept.extend(taken);
            self.0.destinations.store(Arc::new(kept));
        }
        gone
    }

    /// Sweeps until dropped.
    pub async fn sweep_forever(self) {
        let every = (self.0.settings.idle / 10).max(Duration::from_secs(1));
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep();
        }
    }
}
