//! The state of one stream: what the proxy holds and watches, and the next update that it needs.
//! Does no I/O.
//!
//! An update is made when it can be sent, from the latest snapshot. Nothing is queued, so a slow
//! proxy skips outdated versions. A resource counts as held once it is sent; one that the proxy
//! rejected is not sent again until it changes.

#[cfg(test)]
mod tests;
mod update;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_api::proto::Resource;
use weft_ir::{ResourceKey, ServicePort};

use super::input::{Hello, Input, StreamError};

/// The maximum number of unacknowledged updates.
pub const MAX_UNACKED: usize = 4;

/// The outcome of an update's resources, from its `Ack`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Now in force; `None`: removed.
    pub in_force: Vec<(ResourceKey, Option<u64>)>,
    /// Key, version, reason.
    pub refused: Vec<(ResourceKey, u64, String)>,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    namespace: String,
    pod: String,
    /// The node that the pod runs on; empty until the pod is known.
    node: String,
    roots: Option<Arc<Resource>>,
    max_watches: usize,
    /// The version of each resource that was sent.
    held: HashMap<ResourceKey, u64>,
    /// Keys to be removed because this controller does not know them.
    unknown: Vec<String>,
    /// The endpoint sets that the destination of each watched address refers to.
    watched: HashMap<SocketAddr, BTreeSet<ServicePort>>,
    /// The endpoint sets that the pod's Gateway refers to; `None` while the pod is not a Gateway's
    /// proxy.
    gateway: Option<BTreeSet<ServicePort>>,
    /// The number of references to each set, by destinations and the gateway; never 0.
    uses: HashMap<ServicePort, usize>,
    stale: Stale,
    /// The versions of resources that are too large to be sent: earlier versions stay in force.
    withheld: HashMap<ResourceKey, u64>,
    /// Withheld resources that were not yet returned by [`Session::withheld`].
    unreported: Vec<(ResourceKey, u64, String)>,
    unacked: VecDeque<Sent>,
    last_nonce: u64,
}

/// What must be compared with the latest snapshot.
#[derive(Debug, Default)]
struct Stale {
    /// And the authorization.
    workload: bool,
    gateway: bool,
    addresses: BTreeSet<SocketAddr>,
    sets: BTreeSet<ServicePort>,
    /// Released by the proxy: removed unless needed again by then.
    dropped: BTreeSet<ResourceKey>,
}

#[derive(Debug)]
struct Sent {
    nonce: u64,
    resources: Vec<(ResourceKey, Option<u64>)>,
    /// The number of keys of the update, including those unknown to this controller.
    keys: usize,
}

impl Session {
    /// Destinations that the proxy holds count as watched, so that none is removed before the proxy
    /// can watch it again.
    pub fn new(hello: Hello, max_watches: usize) -> Result<Self, StreamError> {
        let mut session = Self {
            namespace: hello.namespace,
            pod: hello.pod,
            node: String::new(),
            roots: None,
            max_watches,
            held: hello.held.into_iter().collect(),
            unknown: hello.unknown,
            watched: HashMap::new(),
            gateway: None,
            uses: HashMap::new(),
            stale: Stale {
                workload: true,
                gateway: true,
                ..Stale::default()
            },
            withheld: HashMap::new(),
            unreported: Vec::new(),
            unacked: VecDeque::new(),
            last_nonce: 0,
        };
        // The roots are sent on each stream: a proxy sends its certificate's root only after it has
        // received them.
        session.held.remove(&ResourceKey::Roots);
        let keys: Vec<_> = session.held.keys().cloned().collect();
        for key in keys {
            match key {
                ResourceKey::Workload
                | ResourceKey::Roots
                | ResourceKey::Authorization
                | ResourceKey::Gateway
                | ResourceKey::Port(..) => {}
                ResourceKey::Destination(address) => session.watch(address)?,
                ResourceKey::Endpoints(id) => drop(session.stale.sets.insert(id)),
            }
        }
        Ok(session)
    }

    /// Returns the number of watched addresses.
    pub fn watches(&self) -> usize {
        self.watched.len()
    }

    /// Handles a message; an `Ack` returns its outcome.
    pub fn receive(&mut self, input: Input) -> Result<Option<Acked>, StreamError> {
        match input {
            Input::Watch(address) => self.watch(address).map(|()| None),
            Input::Unwatch(address) => {
                self.unwatch(address);
                Ok(None)
            }
            Input::Ack { nonce, refused } => self.acked(nonce, &refused).map(Some),
            // Does not change what the proxy is sent.
            Input::Withdraw | Input::Certificate(_) => Ok(None),
        }
    }

    /// Marks everything to be compared with a new snapshot.
    pub fn snapshot_changed(&mut self) {
        self.stale.workload = true;
        self.stale.gateway = true;
        self.stale.addresses.extend(self.watched.keys());
        self.stale.sets.extend(self.uses.keys().cloned());
    }

    /// Sets the trusted roots, sent with the next update.
    pub fn set_roots(&mut self, roots: Option<Arc<Resource>>) {
        self.roots = roots;
    }

    fn watch(&mut self, address: SocketAddr) -> Result<(), StreamError> {
        if self.watched.contains_key(&address) {
            return Ok(());
        }
        if self.watched.len() >= self.max_watches {
            return Err(StreamError::TooManyWatches(self.max_watches));
        }
        self.watched.insert(address, BTreeSet::new());
        self.stale.addresses.insert(address);
        Ok(())
    }

    /// The proxy has released the destination, and the sets that it held for that alone. It may not
    /// have received an update yet by which another destination refers to one of these sets: sets
    /// that are needed are sent again.
    fn unwatch(&mut self, address: SocketAddr) {
        let Some(references) = self.watched.remove(&address) else {
            return;
        };
        self.stale.addresses.remove(&address);
        self.forget(ResourceKey::Destination(address));
        for id in references {
            self.release(&id);
            self.forget(ResourceKey::Endpoints(id.clone()));
            self.stale.sets.insert(id);
        }
    }

    fn forget(&mut self, key: ResourceKey) {
        if self.held.remove(&key).is_some() {
            self.stale.dropped.insert(key);
        }
    }

    /// Removes one reference; returns true if it was the last.
    fn release(&mut self, id: &ServicePort) -> bool {
        let Some(uses) = self.uses.get_mut(id) else {
            return false;
        };
        *uses -= 1;
        let last = *uses == 0;
        if last {
            self.uses.remove(id);
        }
        last
    }

    fn acked(&mut self, nonce: u64, refused: &[(String, String)]) -> Result<Acked, StreamError> {
        if nonce > self.last_nonce || nonce == 0 {
            return Err(StreamError::Nonce(nonce));
        }
        let index = self.unacked.iter().position(|sent| sent.nonce == nonce);
        let Some(sent) = index.and_then(|index| self.unacked.remove(index)) else {
            return Ok(Acked::default());
        };
        if refused.len() > sent.keys {
            return Err(StreamError::TooManyRefusals {
                refused: refused.len(),
                sent: sent.keys,
            });
        }
        let reasons: HashMap<&str, &str> = refused
            .iter()
            .map(|(key, reason)| (&**key, &**reason))
            .collect();
        let mut acked = Acked::default();
        for (key, version) in sent.resources {
            // The key is formatted only if there are reasons to look up.
            let name = (!reasons.is_empty()).then(|| key.to_string());
            let reason = name.and_then(|name| reasons.get(&*name).copied());
            match (reason, version) {
                (Some(reason), Some(version)) => {
                    acked.refused.push((key, version, reason.to_owned()));
                }
                _ => acked.in_force.push((key, version)),
            }
        }
        Ok(acked)
    }

    /// Returns key, version and reason of each resource that was withheld since the last call.
    pub fn withheld(&mut self) -> Vec<(ResourceKey, u64, String)> {
        std::mem::take(&mut self.unreported)
    }
}
