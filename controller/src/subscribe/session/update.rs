//! The next update of a session.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;
use weft_api::proto::{Resource, Update};
use weft_ir::{ResourceKey, ServicePort};

use super::{MAX_UNACKED, Sent, Session};
use crate::encoder::{EncodedGateway, Source};

/// An update of this size takes no further destination.
pub(super) const FULL_UPDATE: usize = 1024 * 1024;
/// A destination and its endpoint sets are sent in one update, unless the sets are larger than
/// this: the remaining sets and the destination are sent with the next update then.
pub(super) const SPLIT_UPDATE: usize = 3 * 1024 * 1024;
/// A larger resource is withheld: with the rest of its update, a proxy decodes 16 MiB at most.
/// Translation limits the size of resources; this is a safeguard.
pub(super) const MAX_RESOURCE: usize = 12 * 1024 * 1024;

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
    /// Returns the resources of the pod's Gateway, if it is a Gateway's proxy.
    pub fn gateway_of(&self, source: &impl Source) -> Option<Arc<EncodedGateway>> {
        source.gateway(&self.namespace, &self.pod)
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
            // In the same update: a proxy that serves its pod enforces the policies on it.
            if let Some(resource) = source.authorization(&self.namespace, &self.pod) {
                self.offer(ResourceKey::Authorization, &resource, &mut draft);
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
