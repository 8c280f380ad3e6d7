//! Lookup of Services during translation, recorded for each route.
//!
//! A cached route is valid for as long as its lookups return the same objects and the inputs that
//! all routes share are the same ([`crate::memo`]). The translation of a route therefore gets a
//! [`TrackedLookup`], which records what it returns, and never the [`Resolver`], whose lookups are
//! not recorded.

use std::cell::RefCell;
use std::sync::Arc;

use weft_ir::ServiceId;

use super::faults::{FaultFilter, FaultFilterId, FaultFilters};
use crate::backend_tls::Policies;
use crate::cluster::services::{ServiceInfo, Services};
use crate::memo::ByIdentity;
use crate::references::grants::Grants;

/// What parentRefs and backendRefs are resolved with, the same for all routes of one translation.
#[derive(Debug)]
pub(crate) struct Resolver {
    services: ByIdentity<Services>,
    faults: ByIdentity<FaultFilters>,
    gateway: Option<GatewayBackendRules>,
}

/// Additional rules for the backends of Gateways.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayBackendRules {
    pub(crate) grants: ByIdentity<Grants>,
    pub(crate) policies: ByIdentity<Policies>,
}

/// The inputs of every route, compared before any of its lookups.
#[derive(Debug, PartialEq)]
pub(super) struct SharedInputs {
    has_imports: bool,
    gateway: Option<GatewayBackendRules>,
}

/// The only access of a route's translation to other objects: each lookup of a Service is recorded
/// with its result, everything else is part of [`SharedInputs`].
#[derive(Debug)]
pub(crate) struct TrackedLookup<'r> {
    resolver: &'r Resolver,
    lookups: RefCell<Lookups>,
}

/// The lookups that a route depends on, with their results.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    services: Vec<Lookup<ServiceId, ServiceInfo>>,
    faults: Vec<Lookup<FaultFilterId, FaultFilter>>,
}

#[derive(Debug)]
struct Lookup<I, T> {
    id: I,
    found: Option<ByIdentity<T>>,
}

impl Resolver {
    /// `gateway` is `None` for Service parents, which need no ReferenceGrant and are not subject to
    /// BackendTLSPolicies.
    pub(crate) fn new(
        services: &ByIdentity<Services>,
        faults: &ByIdentity<FaultFilters>,
        gateway: Option<GatewayBackendRules>,
    ) -> Self {
        Self {
            services: services.clone(),
            faults: faults.clone(),
            gateway,
        }
    }

    /// Returns all Services, for what is derived anew in every translation.
    pub(crate) fn untracked_services(&self) -> &Services {
        &self.services
    }

    pub(super) fn shared_inputs(&self) -> SharedInputs {
        SharedInputs {
            has_imports: self.services.has_imports,
            gateway: self.gateway.clone(),
        }
    }

    /// Returns the lookup for one route.
    pub(super) fn track(&self) -> TrackedLookup<'_> {
        TrackedLookup {
            resolver: self,
            lookups: RefCell::default(),
        }
    }

    /// Returns true if all of these lookups still have the same result.
    pub(super) fn lookups_hold(&self, lookups: &Lookups) -> bool {
        let Lookups { services, faults } = lookups;
        let service = |id| self.services.get(id).map(ByIdentity::of);
        let fault = |id| self.faults.get(id).map(ByIdentity::of);
        services.iter().all(|of| service(&of.id) == of.found)
            && faults.iter().all(|of| fault(&of.id) == of.found)
    }
}

impl<'r> TrackedLookup<'r> {
    /// Looks up a Service.
    pub(crate) fn service(&self, id: &ServiceId) -> Option<&'r Arc<ServiceInfo>> {
        let found = self.resolver.services.get(id);
        self.lookups.borrow_mut().services.push(Lookup {
            id: id.clone(),
            found: found.map(ByIdentity::of),
        });
        found
    }

    /// Looks up a FaultFilter.
    pub(super) fn fault(&self, id: FaultFilterId) -> Option<&'r FaultFilter> {
        let found = self.resolver.faults.get(&id);
        let lookup = Lookup {
            id,
            found: found.map(ByIdentity::of),
        };
        self.lookups.borrow_mut().faults.push(lookup);
        found.map(|found| &**found)
    }

    /// Returns true if the cluster serves ServiceImport.
    pub(crate) fn has_imports(&self) -> bool {
        self.resolver.services.has_imports
    }

    /// Returns the rules for backends of Gateways; `None` if the route is translated for its
    /// Service parents.
    pub(crate) fn gateway(&self) -> Option<&'r GatewayBackendRules> {
        self.resolver.gateway.as_ref()
    }

    /// Ends the translation of the route.
    pub(super) fn finish(self) -> Lookups {
        self.lookups.into_inner()
    }
}
