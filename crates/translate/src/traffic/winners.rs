//! Which policy applies at each place, and so at each port.

use std::collections::HashMap;
use std::sync::Arc;

use weft_ir::{RetryBudget, ServiceId, ServiceKind, ServicePort, TrafficPolicy};

use super::constraints::Constraints;
use super::fits::{Refusal, fits};
use super::merge::effective;
use super::policy::{Policy, Scope};
use crate::cluster::endpoints::TrafficPolicies;
use crate::cluster::services::{PortInfo, ServiceInfo, Services};
use crate::output::TrafficPolicyId;

/// The policies that apply at each port, the farthest first.
pub(crate) type AppliedPolicies = HashMap<Arc<ServicePort>, Arc<[TrafficPolicyId]>>;

/// The addresses of the policies of all levels.
type LevelsKey = [Option<usize>; 4];

/// The effective policy of a port, and the policies that apply there.
type Merged = (Arc<TrafficPolicy>, Arc<[TrafficPolicyId]>);

/// Where a policy applies: a level, and the object there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Mesh,
    Namespace(String),
    Service(ServiceId),
    Port(ServicePort),
}

/// The policy of each place: of several the oldest one that is valid.
pub(super) struct Winners<'p> {
    pub(super) by_place: HashMap<Place, &'p Arc<Policy>>,
}

impl<'p> Winners<'p> {
    /// Expects the oldest policies first.
    pub(super) fn new(policies: &'p [Arc<Policy>], services: &Services) -> Self {
        let mut by_place = HashMap::new();
        for policy in policies.iter().filter(|of| of.directive.is_ok()) {
            let scopes = policy
                .targets
                .iter()
                .filter_map(|of| of.scope.as_ref().ok());
            for scope in scopes {
                if let Ok(place) = place(policy, scope, services) {
                    by_place.entry(place).or_insert(policy);
                }
            }
        }
        Self { by_place }
    }

    /// The policies of the levels above a port, the farthest first.
    fn levels(&self, service: &ServiceInfo, port: &PortInfo) -> [Option<&'p Arc<Policy>>; 4] {
        let id = service.id.as_ref();
        [
            Place::Mesh,
            Place::Namespace(id.namespace.clone()),
            Place::Service(id.clone()),
            Place::Port(port.id.as_ref().clone()),
        ]
        .map(|place| self.by_place.get(&place).copied())
    }

    pub(super) fn at_ports(
        &self,
        services: &Services,
        constraints: &Constraints<'_>,
    ) -> (TrafficPolicies, AppliedPolicies) {
        let (mut effective_at, mut applied_at) = <(TrafficPolicies, AppliedPolicies)>::default();
        if self.by_place.is_empty() && constraints.is_empty() {
            return (effective_at, applied_at);
        }
        // Most ports have the same policies as others.
        let mut known: HashMap<(LevelsKey, Option<RetryBudget>), Merged> = HashMap::new();
        let services = services
            .iter()
            .filter(|of| of.id.kind == ServiceKind::Service);
        for service in services {
            let constraint = constraints.of(&service.id);
            for port in &service.ports {
                let levels = self.levels(service, port);
                if levels.iter().all(Option::is_none) && constraint.is_none() {
                    continue;
                }
                let key = levels.map(|of| of.map(|of| Arc::as_ptr(of).addr()));
                let key = (key, constraint.copied());
                let (policy, applied) = known.entry(key).or_insert_with(|| {
                    let directives = levels.map(|of| of?.directive.as_ref().ok());
                    let ids = levels.iter().flatten().map(|of| of.id.clone());
                    let merged = effective(&directives, constraint);
                    (Arc::new(merged), ids.collect())
                });
                effective_at.insert(Arc::clone(&port.id), Arc::clone(policy));
                if !applied.is_empty() {
                    applied_at.insert(Arc::clone(&port.id), Arc::clone(applied));
                }
            }
        }
        (effective_at, applied_at)
    }
}

/// Finds the object that a target names.
pub(super) fn place(policy: &Policy, scope: &Scope, services: &Services) -> Result<Place, Refusal> {
    let namespace = policy.namespace();
    let (name, section) = match scope {
        Scope::Mesh => return Ok(Place::Mesh),
        Scope::Namespace => return Ok(Place::Namespace(namespace.to_owned())),
        Scope::Service { name, port } => (name, port.as_deref()),
    };
    let id = ServiceId::new(namespace, &**name);
    let Some(service) = services.get(&id) else {
        let why = format!(
            "Service {namespace}/{name} does not exist; a policy targets objects of its own \
             namespace"
        );
        return Err(("TargetNotFound", why));
    };
    let of_connections = !policy.of_connections().is_empty();
    let Some(section) = section else {
        return match fits(service, &service.ports, of_connections) {
            Some(why) => Err(("Invalid", why)),
            None => Ok(Place::Service(id)),
        };
    };
    let is_section = |port: &&PortInfo| port.name == section || port.number.to_string() == section;
    match service.ports.iter().find(is_section) {
        Some(port) => match fits(service, std::slice::from_ref(port), of_connections) {
            Some(why) => Err(("Invalid", why)),
            None => Ok(Place::Port(port.id.as_ref().clone())),
        },
        None => {
            let why = format!(
                "Service {namespace}/{name} has no TCP port {section:?}; it has {}",
                service.describe_ports()
            );
            Err(("TargetNotFound", why))
        }
    }
}
