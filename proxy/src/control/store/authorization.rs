//! The policies that the proxy enforces: in force before the traffic that comes with them, and
//! closed as long as they cannot be read.

use weft_api::proto;
use weft_ir::{Authorizations, ResourceKey};

use super::{Store, StoreState};
use crate::routing::gateway_port::REMOVED_LISTENER_GRACE;

impl Store {
    /// Puts the policies of an update in force. `removes`: the update changes ports, too, and
    /// [`Store::settle_authorization`] is to follow. If policies were refused and none are in
    /// force, everything is denied until valid ones come.
    pub(super) fn publish_authorization(
        &self,
        state: &StoreState,
        authorization: Option<&Authorizations>,
        removes: bool,
        removed: &[ResourceKey],
        refused: &[proto::Refused],
    ) {
        let key = ResourceKey::Authorization;
        let is_removed = removed.contains(&key);
        let is_refused = refused.iter().any(|of| of.key == key.to_string());
        if let Some(of) = authorization {
            self.policies()
                .publish(of, removes.then_some(REMOVED_LISTENER_GRACE));
        } else if is_refused && (is_removed || !state.versions.contains_key(&key)) {
            tracing::error!("the policies cannot be read: everything is denied");
            self.policies().deny_all();
        } else if is_removed {
            self.policies().clear();
        }
    }

    /// Follows the ports of an update: policies of removed listeners and routes stay in force for
    /// their open connections.
    pub(super) fn settle_authorization(&self, state: &StoreState) {
        self.policies().settle(
            |number, name| {
                let mut of_number = state.ports.iter().filter(|((_, of), _)| *of == number);
                of_number.any(|(_, port)| port.load().has_listener(name))
            },
            |route| {
                state
                    .ports
                    .values()
                    .any(|port| port.load().has_route(route))
            },
        );
    }
}
