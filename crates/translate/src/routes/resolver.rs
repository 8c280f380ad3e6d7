//! Lookup of Services during translation, recorded for each route.
//!
//! A cached route is valid for as long as its lookups return the same objects. Everything that the
//! translation of a route reads, apart from the route itself, must therefore go through
//! [`Resolver::service`] or be part of [`Resolver::shared_inputs`]; anything else would leave stale
//! routes.

use std::cell::RefCell;
use std::sync::Arc;

use weft_ir::ServiceId;

use crate::backend_tls::Policies;
use crate::cluster::services::{ServiceInfo, Services};
use crate::memo::ByIdentity;
use crate::references::grants::Grants;

/// Resolves parentRefs and backendRefs.
#[derive(Debug)]
pub(crate) struct Resolver {
    services: ByIdentity<Services>,
    /// `None` for Service parents, which need no ReferenceGrant and are not subject to
    /// BackendTLSPolicies.
    pub(crate) gateway: Option<GatewayBackendRules>,
    /// The lookups since the last route.
    lookups: RefCell<Vec<Lookup>>,
}

/// Additional rules for the backends of Gateways.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayBackendRules {
    pub(crate) grants: ByIdentity<Grants>,
    pub(crate) policies: ByIdentity<Policies>,
}

/// Inputs of every route: whether the cluster serves ServiceImport, and the rules of Gateways.
pub(super) type SharedInputs = (bool, Option<GatewayBackendRules>);

/// A lookup of a Service, with its result.
#[derive(Debug)]
pub(super) struct Lookup {
    id: ServiceId,
    found: Option<ByIdentity<ServiceInfo>>,
}

impl Resolver {
    pub(crate) fn new(
        services: &ByIdentity<Services>,
        gateway: Option<GatewayBackendRules>,
    ) -> Self {
        Self {
            services: services.clone(),
            gateway,
            lookups: RefCell::default(),
        }
    }

    /// Returns all Services. The translation of a route uses [`Resolver::service`] instead.
    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Looks up a Service on behalf of the current route.
    pub(crate) fn service(&self, id: &ServiceId) -> Option<&Arc<ServiceInfo>> {
        let found = self.services.get(id);
        self.lookups.borrow_mut().push(Lookup {
            id: id.clone(),
            found: found.map(ByIdentity::of),
        });
        found
    }

    pub(crate) fn has_imports(&self) -> bool {
        self.services.has_imports
    }

    /// Returns the inputs that every route depends on.
    pub(super) fn shared_inputs(&self) -> SharedInputs {
        (self.has_imports(), self.gateway.clone())
    }

    /// Returns the lookups since the last call.
    pub(super) fn take_lookups(&self) -> Vec<Lookup> {
        self.lookups.take()
    }

    /// Returns true if all of these lookups still have the same result.
    pub(super) fn lookups_hold(&self, lookups: &[Lookup]) -> bool {
        let mut lookups = lookups.iter();
        lookups.all(|Lookup { id, found }| self.services.get(id).map(ByIdentity::of) == *found)
    }
}
