//! What routes are translated against, and what each of them has seen of it.

use std::cell::RefCell;
use std::sync::Arc;

use weft_ir::ServiceId;

use crate::backend_tls::Policies;
use crate::cluster::services::{ServiceInfo, Services};
use crate::memo::Same;
use crate::references::grants::Grants;

/// What parentRefs and backendRefs are looked up in.
#[derive(Debug)]
pub(crate) struct Resolver {
    services: Same<Services>,
    /// `None`: for Service parents, which need no ReferenceGrant and know no BackendTLSPolicy.
    pub(crate) gateway: Option<GatewayRules>,
    /// Lookups since the last route.
    seen: RefCell<Vec<Seen>>,
}

/// What holds for the backends of Gateways besides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayRules {
    pub(crate) grants: Same<Grants>,
    pub(crate) policies: Same<Policies>,
}

/// What holds for all routes: whether there are ServiceImports, and Gateways' rules.
pub(super) type Common = (bool, Option<GatewayRules>);

/// A Service that was looked up, and what was found.
#[derive(Debug)]
pub(super) struct Seen {
    id: ServiceId,
    found: Option<Same<ServiceInfo>>,
}

impl Resolver {
    pub(crate) fn new(services: &Same<Services>, gateway: Option<GatewayRules>) -> Self {
        Self {
            services: services.clone(),
            gateway,
            seen: RefCell::default(),
        }
    }

    /// All of them. Routes look up theirs by [`Resolver::service`].
    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    pub(crate) fn service(&self, id: &ServiceId) -> Option<&Arc<ServiceInfo>> {
        let found = self.services.get(id);
        self.seen.borrow_mut().push(Seen {
            id: id.clone(),
            found: found.map(Same::of),
        });
        found
    }

    pub(crate) fn has_imports(&self) -> bool {
        self.services.has_imports
    }

    pub(super) fn common(&self) -> Common {
        (self.has_imports(), self.gateway.clone())
    }

    /// The lookups since this was asked last.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.take()
    }

    /// Whether all these lookups would find the same.
    pub(super) fn still_finds(&self, seen: &[Seen]) -> bool {
        let mut seen = seen.iter();
        seen.all(|Seen { id, found }| self.services.get(id).map(Same::of) == *found)
    }
}
