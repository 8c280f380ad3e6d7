//! What one proxy holds and wants, and the next update that it needs. Decides only; does no I/O.
//!
//! Updates are made when they can be sent, from the latest snapshot: nothing is queued, so a slow proxy skips what
//! is outdated. Everything an update sends counts as held from then on; a resource that the proxy refused is not sent
//! again until it differs.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;
use weft_api::proto::{Resource, Update};
use weft_ir::{ResourceKey, ServicePort};

use super::encoder::{EncodedGateway, Source};
use super::input::{Hello, Input, Refusal};

/// Updates that may be on their way without an answer.
pub const MAX_UNACKED: usize = 4;
/// An update takes in no further address from this size on.
const FULL: usize = 1024 * 1024;
/// One destination comes in one update with its endpoint sets, unless these alone are larger than this: those that are
/// left and the destination come with the next update then.
const SPLIT: usize = 3 * 1024 * 1024;
/// A larger resource is not sent: with what may stand before it in an update, and with keys, a proxy takes 16 MiB.
/// Translation keeps resources smaller; this is for what it does not foresee.
const MAX_RESOURCE: usize = 12 * 1024 * 1024;

/// What an `Ack` says of the resources of its update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// In force now; `None`: dropped.
    pub in_force: Vec<(ResourceKey, Option<u64>)>,
    /// Key, version, reason.
    pub refused: Vec<(ResourceKey, u64, String)>,
}

/// One stream's state.
#[derive(Debug)]
pub struct Session {
    namespace: String,
    pod: String,
    /// That the pod runs on; empty until the pod is known.
    node: String,
    roots: Option<Arc<Resource>>,
    max_watches: usize,
    /// What the proxy has, as far as sent.
    held: HashMap<ResourceKey, u64>,
    /// Keys to be dropped that have no meaning here.
    unknown: Vec<String>,
    /// Each watched address with the sets that its destination refers to.
    watched: HashMap<SocketAddr, BTreeSet<ServicePort>>,
    /// What the pod's Gateway refers to; `None` while it is not known as a Gateway's.
    gateway: Option<BTreeSet<ServicePort>>,
    /// In how many destinations, the gateway counting as one, a set is referred to; never 0.
    uses: HashMap<ServicePort, usize>,
    stale: Stale,
    /// The versions of resources that are too large to be sent: the proxy keeps what it has.
    withheld: HashMap<ResourceKey, u64>,
    /// Those of them that nobody has been told of.
    unreported: Vec<(ResourceKey, u64, String)>,
    unacked: VecDeque<Sent>,
    last_nonce: u64,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Stale {
    workload: bool,
    gateway: bool,
    addresses: BTreeSet<SocketAddr>,
    sets: BTreeSet<ServicePort>,
    /// Given up by the proxy: dropped unless wanted again by then.
    dropped: BTreeSet<ResourceKey>,
}

#[derive(Debug)]
struct Sent {
    nonce: u64,
    resources: Vec<(ResourceKey, Option<u64>)>,
    /// How many keys it named: those unknown here, too.
    keys: usize,
}

/// An update in the making.
#[derive(Default)]
struct Draft {
    resources: Vec<Resource>,
    removed: Vec<String>,
    sent: Vec<(ResourceKey, Option<u64>)>,
    size: usize,
}

impl Draft {
    fn is_full(&self) -> bool {
        self.size >= FULL
    }
}

impl Session {
    /// Destinations that the proxy still holds count as watched, so that nothing is taken away before it can ask again.
    pub fn new(hello: Hello, max_watches: usize) -> Result<Self, Refusal> {
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
        // Said on each stream: by that a proxy knows that it may speak of its certificate.
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

    /// How many addresses are watched.
    pub fn watches(&self) -> usize {
        self.watched.len()
    }

    /// Takes in a message; an `Ack` returns what it says.
    pub fn receive(&mut self, input: Input) -> Result<Option<Acked>, Refusal> {
        match input {
            Input::Watch(address) => self.watch(address).map(|()| None),
            Input::Unwatch(address) => {
                self.unwatch(address);
                Ok(None)
            }
            Input::Ack { nonce, refused } => self.acked(nonce, &refused).map(Some),
            // Not a matter of what this proxy is told.
            Input::Withdraw | Input::Certificate(_) => Ok(None),
        }
    }

    /// There is another snapshot: everything is looked at again.
    pub fn snapshot_changed(&mut self) {
        self.stale.workload = true;
        self.stale.gateway = true;
        self.stale.addresses.extend(self.watched.keys());
        self.stale.sets.extend(self.uses.keys().cloned());
    }

    /// What is trusted now; offered with the next update.
    pub fn set_roots(&mut self, roots: Option<Arc<Resource>>) {
        self.roots = roots;
    }

    fn watch(&mut self, address: SocketAddr) -> Result<(), Refusal> {
        if self.watched.contains_key(&address) {
            return Ok(());
        }
        if self.watched.len() >= self.max_watches {
            return Err(Refusal::TooManyWatches(self.max_watches));
        }
        self.watched.insert(address, BTreeSet::new());
        self.stale.addresses.insert(address);
        Ok(())
    }

    /// The proxy has let go of the destination and of whatever it held for that alone. It may not have had an update yet
    /// that makes another destination need one of the sets: those that are needed are sent again.
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

    /// Whether that was the last use.
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

    fn acked(&mut self, nonce: u64, refused: &[(String, String)]) -> Result<Acked, Refusal> {
        if nonce > self.last_nonce || nonce == 0 {
            return Err(Refusal::Nonce(nonce));
        }
        let place = self.unacked.iter().position(|sent| sent.nonce == nonce);
        let Some(sent) = place.and_then(|place| self.unacked.remove(place)) else {
            return Ok(Acked::default());
        };
        if refused.len() > sent.keys {
            return Err(Refusal::TooManyRefusals {
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
            // Names are made only where there is something to look up.
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

    /// What the pod is told as a Gateway's proxy, if it is one.
    pub fn gateway_of(&self, source: &impl Source) -> Option<Arc<EncodedGateway>> {
        source.gateway(&self.namespace, &self.pod)
    }

    /// Key, version and reason of each resource that was withheld since this was asked last: it counts as refused.
    pub fn withheld(&mut self) -> Vec<(ResourceKey, u64, String)> {
        std::mem::take(&mut self.unreported)
    }

    /// The next update to send, if one is needed and may be sent. Call until there is none.
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
            // A pod that is not seen for a moment keeps what it was told.
            if let Some(node) = source.node(&self.namespace, &self.pod) {
                self.node = node;
            }
            if let Some(resource) = source.workload(&self.namespace, &self.pod) {
                self.offer(ResourceKey::Workload, &resource, &mut draft);
            }
        }
        if self.stale.gateway {
            self.renew_gateway(source, &mut draft);
        }
        while !draft.is_full() {
            let Some(address) = self.stale.addresses.pop_first() else {
                break;
            };
            self.renew_destination(address, source, &mut draft);
        }
        // Sets are let go only once no destination, and no port, is left that may need them.
        let settled = self.stale.addresses.is_empty() && !self.stale.gateway;
        while settled && !draft.is_full() {
            let Some(id) = self.stale.sets.pop_first() else {
                break;
            };
            self.renew_set(id, source, &mut draft);
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

    /// Endpoint sets first, then ports: it may take several updates, which each go on where the last one ended.
    fn renew_gateway(&mut self, source: &impl Source, draft: &mut Draft) {
        let Some(gateway) = self.gateway_of(source) else {
            // As with the workload: what was told stays.
            self.stale.gateway = false;
            return;
        };
        let before = self.gateway.replace(gateway.references.clone());
        self.refer(&before.unwrap_or_default(), &gateway.references);
        for id in &gateway.references {
            if draft.is_full() {
                return;
            }
            self.stale.sets.remove(id);
            self.renew_set(id.clone(), source, draft);
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

    /// A destination, or the gateway, refers to other sets than before.
    fn refer(&mut self, before: &BTreeSet<ServicePort>, now: &BTreeSet<ServicePort>) {
        for id in now.difference(before) {
            *self.uses.entry(id.clone()).or_default() += 1;
        }
        for id in before.difference(now) {
            if self.release(id) {
                self.stale.sets.insert(id.clone());
            }
        }
    }

    fn renew_destination(&mut self, address: SocketAddr, source: &impl Source, draft: &mut Draft) {
        let Some(before) = self.watched.get_mut(&address).map(std::mem::take) else {
            return;
        };
        let destination = source.destination(address, &self.namespace);
        self.refer(&before, &destination.references);
        self.watched.insert(address, destination.references.clone());
        for id in &destination.references {
            if draft.size >= SPLIT {
                self.stale.addresses.insert(address);
                return;
            }
            self.stale.sets.remove(id);
            self.renew_set(id.clone(), source, draft);
        }
        if draft.size >= SPLIT {
            self.stale.addresses.insert(address);
            return;
        }
        let key = ResourceKey::Destination(address);
        self.offer(key, &destination.resource, draft);
    }

    fn renew_set(&mut self, id: ServicePort, source: &impl Source, draft: &mut Draft) {
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
                    "not sent: it has {size} bytes, and at most {MAX_RESOURCE} are sent; what was sent before stays in force"
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
