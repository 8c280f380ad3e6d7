//! The state of one stream: what the proxy holds and watches, and the next update that it needs.
//! Does no I/O.
//!
//! An update is made when it can be sent, from the latest snapshot. Nothing is queued, so a slow
//! proxy skips outdated versions. A resource counts as held once it is sent; one that the proxy
//! rejected is not sent again until it changes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;
use weft_api::proto::{Resource, Update};
use weft_ir::{ResourceKey, ServicePort};

use super::input::{Hello, Input, StreamError};
use crate::encoder::{EncodedGateway, Source};

/// The maximum number of unacknowledged updates.
pub const MAX_UNACKED: usize = 4;
/// An update of this size takes no further destination.
const FULL_UPDATE: usize = 1024 * 1024;
/// A destination and its endpoint sets are sent in one update, unless the sets are larger than
/// this: the remaining sets and the destination are sent with the next update then.
const SPLIT_UPDATE: usize = 3 * 1024 * 1024;
/// A larger resource is withheld: with the rest of its update, a proxy decodes 16 MiB at most.
/// Translation limits the size of resources; this is a safeguard.
const MAX_RESOURCE: usize = 12 * 1024 * 1024;

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

/// An update under construction.
#[derive(Default)]
struct Draft {
    resources: Vec<Resource>,
    removed: Vec<String>,
    sent: Vec<(ResourceKey, Option<u64>)>,
    size: usize,
}

impl Draft {
    fn is_full(&self) -> bool {
        self.size >= FULL_UPDATE
    }
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

    /// Returns the resources of the pod's Gateway, if it is a Gateway's proxy.
    pub fn gateway_of(&self, source: &impl Source) -> Option<Arc<EncodedGateway>> {
        source.gateway(&self.namespace, &self.pod)
    }

    /// Returns key, version and reason of each resource that was withheld since the last call.
    pub fn withheld(&mut self) -> Vec<(ResourceKey, u64, String)> {
        std::mem::take(&mut self.unreported)
    }

    /// Returns the next update, if one is needed and may be sent. To be called until it returns
    /// `None`.
    pub fn next_update(&mut self, source: &impl Source) -> Option<Update> {
        if self.unacked.len() >= MAX_UNACKED {
            return None;
        }
        let mut draft = Draft {
            removed: std::mem::take(&mut self.unknown),
            ..Draft::default()
        };
        if let Some(roots) = self.roots.take() {
            self.offer(ResourceKey::Roots, &roots, &mut draft);
        }
        if std::mem::take(&mut self.stale.workload) {
            // While the pod is unknown, what it was sent stays in force.
            if let Some(node) = source.node(&self.namespace, &self.pod) {
                self.node = node;
            }
            if let Some(resource) = source.workload(&self.namespace, &self.pod) {
                self.offer(ResourceKey::Workload, &resource, &mut draft);
            }
        }
        if self.stale.gateway {
            self.update_gateway(source, &mut draft);
        }
        while !draft.is_full() {
            let Some(address) = self.stale.addresses.pop_first() else {
                break;
            };
            self.update_destination(address, source, &mut draft);
        }
        // Sets are removed only once no destination or port is left that may refer to them.
        let settled = self.stale.addresses.is_empty() && !self.stale.gateway;
        while settled && !draft.is_full() {
            let Some(id) = self.stale.sets.pop_first() else {
                break;
            };
            self.update_set(id, source, &mut draft);
        }
        if settled {
            for key in std::mem::take(&mut self.stale.dropped) {
                if !self.held.contains_key(&key) {
                    draft.removed.push(key.to_string());
                    draft.sent.push((key, None));
                }
            }
        }
        self.send(draft)
    }

    /// Sends endpoint sets, then ports. This may take several updates, each of which continues
    /// where the last one ended.
    fn update_gateway(&mut self, source: &impl Source, draft: &mut Draft) {
        let Some(gateway) = self.gateway_of(source) else {
            // As with the workload, what was sent stays in force.
            self.stale.gateway = false;
            return;
        };
        let before = self.gateway.replace(gateway.references.clone());
        self.update_references(&before.unwrap_or_default(), &gateway.references);
        for id in &gateway.references {
            if draft.is_full() {
                return;
            }
            self.stale.sets.remove(id);
            self.update_set(id.clone(), source, draft);
        }
        for (key, resource) in &gateway.resources {
            if draft.is_full() {
                return;
            }
            self.offer(key.clone(), resource, draft);
        }
        let closed = self.held.keys().filter(|key| {
            let wanted = || gateway.resources.iter().any(|(wanted, _)| wanted == *key);
            matches!(key, ResourceKey::Port(..)) && !wanted()
        });
        let closed: Vec<_> = closed.cloned().collect();
        for key in closed {
            self.drop_held(key, draft);
        }
        self.stale.gateway = false;
    }

    /// Updates the references of a destination or the gateway.
    fn update_references(&mut self, before: &BTreeSet<ServicePort>, now: &BTreeSet<ServicePort>) {
        for id in now.difference(before) {
            *self.uses.entry(id.clone()).or_default() += 1;
        }
        for id in before.difference(now) {
            if self.release(id) {
                self.stale.sets.insert(id.clone());
            }
        }
    }

    fn update_destination(&mut self, address: SocketAddr, source: &impl Source, draft: &mut Draft) {
        let Some(before) = self.watched.get_mut(&address).map(std::mem::take) else {
            return;
        };
        let destination = source.destination(address, &self.namespace);
        self.update_references(&before, &destination.references);
        self.watched.insert(address, destination.references.clone());
        for id in &destination.references {
            if draft.size >= SPLIT_UPDATE {
                self.stale.addresses.insert(address);
                return;
            }
            self.stale.sets.remove(id);
            self.update_set(id.clone(), source, draft);
        }
        if draft.size >= SPLIT_UPDATE {
            self.stale.addresses.insert(address);
            return;
        }
        let key = ResourceKey::Destination(address);
        self.offer(key, &destination.resource, draft);
    }

    fn update_set(&mut self, id: ServicePort, source: &impl Source, draft: &mut Draft) {
        let wanted = self.uses.contains_key(&id);
        let resource = match (wanted, &self.gateway) {
            (false, _) => None,
            (true, None) => source.endpoints(&id, &self.node),
            (true, Some(_)) => source.gateway_endpoints(&id, &self.node),
        };
        let key = ResourceKey::Endpoints(id);
        match resource {
            Some(resource) => self.offer(key, &resource, draft),
            None => self.drop_held(key, draft),
        }
    }

    fn drop_held(&mut self, key: ResourceKey, draft: &mut Draft) {
        self.withheld.remove(&key);
        if self.held.remove(&key).is_some() {
            draft.removed.push(key.to_string());
            draft.sent.push((key, None));
        }
    }

    fn offer(&mut self, key: ResourceKey, resource: &Resource, draft: &mut Draft) {
        if self.held.get(&key) == Some(&resource.version) {
            return;
        }
        let size = resource.encoded_len();
        if size > MAX_RESOURCE {
            if self.withheld.insert(key.clone(), resource.version) != Some(resource.version) {
                let reason = format!(
                    "not sent: it has {size} bytes, and at most {MAX_RESOURCE} are sent; what was \
                     sent before stays in force"
                );
                self.unreported.push((key, resource.version, reason));
            }
            return;
        }
        self.withheld.remove(&key);
        self.held.insert(key.clone(), resource.version);
        draft.size += size;
        draft.sent.push((key, Some(resource.version)));
        draft.resources.push(resource.clone());
    }

    fn send(&mut self, draft: Draft) -> Option<Update> {
        if draft.resources.is_empty() && draft.removed.is_empty() {
            return None;
        }
        self.last_nonce += 1;
        self.unacked.push_back(Sent {
            nonce: self.last_nonce,
            resources: draft.sent,
            keys: draft.resources.len() + draft.removed.len(),
        });
        Some(Update {
            nonce: self.last_nonce,
            resources: draft.resources,
            removed: draft.removed,
            withdrawn: None,
        })
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
