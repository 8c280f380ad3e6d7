//! Who may call, and with which tokens: the policies in force, compiled once for each change, and
//! what each connection and request needs of them.
//!
//! [`Policies`] is published by the store and shared by all connections. A connection makes a
//! [`ClientPolicies`] of it, which knows the client, and asks that for a [`Permit`] for each
//! request or for its bytes. A permit says what was decided, and whether that still holds once the
//! policies have changed. Without policies a request loads one number.

mod client;
mod compiled;
mod permit;
mod target;
mod verdict;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use weft_ir::{Authorizations, RouteId};

pub use client::ClientPolicies;
pub use permit::Permit;
pub use verdict::{Reason, Verdict};

use crate::authentication::Authenticators;
use crate::telemetry::authorization::{DecisionCounts, DecisionSeries};
use crate::telemetry::labels::Direction;
use compiled::Compiled;
use target::Parts;

/// Set in a version whose policies have to be asked.
const IN_FORCE: u64 = 1;
/// What two versions differ by at least.
const STEP: u64 = 2;

/// The policies of this proxy; clones are the same.
#[derive(Clone)]
pub struct Policies(Arc<Shared>);

struct Shared {
    /// Of the policies in force; loaded by every request.
    version: AtomicU64,
    /// `None`: everything is allowed.
    current: ArcSwapOption<Compiled>,
    /// Tells open connections of a change.
    changed: watch::Sender<()>,
    series: Arc<DecisionSeries>,
    /// Counts decisions by no policy.
    unnamed: Arc<DecisionCounts>,
    authenticators: Authenticators,
}

impl Policies {
    /// Has no policies yet. `direction`: what decisions are counted under.
    pub fn new(direction: Direction, series: &Arc<DecisionSeries>) -> Self {
        Self(Arc::new(Shared {
            version: AtomicU64::new(0),
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(()),
            series: series.clone(),
            unnamed: series.unnamed(direction),
            authenticators: Authenticators::default(),
        }))
    }

    /// Puts the policies in force, and tells open connections. `grace`: listeners and routes may be
    /// removed by the same update, and still take traffic for so long. What `of` does not name
    /// keeps its policies until then, or until [`Policies::settle`]. Calls must not overlap.
    pub fn publish(&self, of: &Authorizations, grace: Option<Duration>) {
        let counts = self.0.series.set_policies(of.policy_ids());
        let parts = Parts {
            counts: &counts,
            unnamed: &self.0.unnamed,
            authenticators: &self.0.authenticators,
        };
        let mut next = Compiled::new(of, parts);
        if let (Some(grace), Some(before)) = (grace, &*self.0.current.load()) {
            next.keep_unnamed(before, of, grace);
        }
        self.store(next);
    }

    /// Drops the policies that were kept for removed listeners and routes, if these exist. Those of
    /// the others are in force for as long as open connections may use them.
    pub fn settle(
        &self,
        has_listener: impl Fn(u16, &str) -> bool,
        has_route: impl Fn(&RouteId) -> bool,
    ) {
        let Some(current) = self.load() else { return };
        if !current.has_removed() {
            return;
        }
        let mut next = Compiled::clone(&current);
        next.settle(has_listener, has_route);
        self.store(next);
    }

    /// Denies everything: what is to be enforced is not known.
    pub fn deny_all(&self) {
        self.0.series.set_policies(std::iter::empty());
        self.store(Compiled::closed(&self.0.unnamed));
    }

    /// Has no policies from now on.
    pub fn clear(&self) {
        self.publish(&Authorizations::default(), None);
    }

    fn store(&self, mut next: Compiled) {
        let is_open = next.is_open();
        let before = self.0.version.load(Ordering::Relaxed);
        if is_open && before & IN_FORCE == 0 {
            return;
        }
        let in_force = if is_open { 0 } else { IN_FORCE };
        next.version = ((before & !IN_FORCE) + STEP) | in_force;
        let version = next.version;
        self.0.current.store((!is_open).then(|| Arc::new(next)));
        // After the policies: whoever reads the version finds them.
        self.0.version.store(version, Ordering::Release);
        self.0.changed.send_replace(());
    }

    /// Returns what tells of changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Returns the version in force.
    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// Returns the policies in force; `None` if everything is allowed.
    fn load(&self) -> Option<Arc<Compiled>> {
        match self.version() & IN_FORCE {
            0 => None,
            _ => self.0.current.load_full(),
        }
    }
}
