//! What the registry knows of one stream.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weft_api::encode::RouteDigests;
use weft_ir::ResourceKey;

use super::{Held, HeldPort};
use crate::identity::RootFingerprint;
use crate::watch::ObjectKey;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) pod: ObjectKey,
    /// Cancelled when a newer stream of the pod replaces it.
    pub(super) replaced: CancellationToken,
    /// Cancelled when the stream should move to another replica.
    pub(super) shed: CancellationToken,
    pub(super) held: HashMap<ResourceKey, Held>,
    /// The newest version of each resource that was sent and is not acknowledged.
    pub(super) sent: HashMap<ResourceKey, u64>,
    /// The route digests of each version of a port, starting with the version in force.
    pub(super) routes: HashMap<ResourceKey, Vec<(u64, Arc<RouteDigests>)>>,
    /// The fingerprint of the root of the proxy's certificate, if it has sent it.
    pub(super) certificate: Option<RootFingerprint>,
}

impl Stream {
    /// Returns true if a version of the resource other than `versions` is in force, or on its way.
    pub(super) fn is_behind(&self, key: &ResourceKey, versions: &[u64]) -> bool {
        let old = |version: &u64| !versions.contains(version);
        let held = match self.held.get(key) {
            Some(Held::InForce(version)) => old(version),
            // A proxy that rejected a version does not accept it later either.
            Some(Held::Refused(_) | Held::Withheld(..)) | None => false,
        };
        held || self.sent.get(key).is_some_and(old)
    }

    pub(super) fn held_port(&self, key: &ResourceKey, held: &Held) -> HeldPort {
        let in_force = match held {
            Held::InForce(version) => Some(*version),
            Held::Refused(_) | Held::Withheld(..) => None,
        };
        let mut sent = self.routes.get(key).into_iter().flatten();
        let routes = sent.find(|(version, _)| Some(*version) == in_force);
        HeldPort {
            held: held.clone(),
            routes: routes.map(|(_, routes)| Arc::clone(routes)),
        }
    }
}
