//! BackendTLSPolicies: which policy applies to a Service port, and the statuses of policies.
//!
//! Source: `BackendTLSPolicySpec`, GEP-1897; GEP-713 on conflicts: the oldest policy applies, then
//! the first by name; one for a port takes precedence over one for the whole Service. An invalid
//! policy applies as well, so that nothing is sent in plain text instead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{BackendTls, EndpointSet, GatewayId, Protocol, ServicePort};

use crate::references::certificates::ReferencedObjects;
mod policy;

use crate::cluster::endpoint_sets::EndpointSets;
use crate::cluster::endpoints::Endpoints;
use crate::cluster::services::{PortInfo, Services};
use crate::conditions::{condition, join};
use crate::names::GROUP;
use crate::objects::{BackendTlsPolicy, Meta, ParentRef};
use crate::output::{AncestorStatus, Condition, PolicyStatus};
use policy::{Policy, Target};

/// Number of ancestors that a status can have.
const MAX_ANCESTORS: usize = 16;

/// All BackendTLSPolicies.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Policies {
    /// The oldest first.
    all: Vec<Policy>,
    /// Position of the policy that applies to a target.
    by_target: HashMap<Target, usize>,
}

impl Policies {
    pub(crate) fn new(policies: &[Arc<BackendTlsPolicy>], data: &ReferencedObjects<'_>) -> Self {
        let mut all: Vec<Policy> = policies
            .iter()
            .filter_map(|policy| {
                let BackendTlsPolicy { metadata, spec } = policy.as_ref();
                Some(Policy::new(metadata, spec.as_ref().ok()?, data))
            })
            .collect();
        all.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut by_target = HashMap::new();
        for (position, policy) in all.iter().enumerate() {
            for target in &policy.targets {
                by_target.entry(target.clone()).or_insert(position);
            }
        }
        Self { all, by_target }
    }

    /// Returns how gateways use TLS to a port, or why nothing can be sent there; `None` without
    /// TLS.
    pub(crate) fn for_port(&self, port: &PortInfo) -> Option<&Result<Arc<BackendTls>, Arc<str>>> {
        if self.by_target.is_empty() {
            return None;
        }
        let named = (port.id.service.clone(), Some(port.name.clone()));
        let position = self.by_target.get(&named);
        let position = position.or_else(|| self.by_target.get(&(named.0, None)))?;
        Some(&self.all[*position].tls)
    }

    /// Returns the endpoint sets of the ports that policies target, given the sets without
    /// policies.
    pub(crate) fn endpoints<'k>(
        &self,
        services: &Services,
        known: impl Fn(&ServicePort) -> Option<&'k Arc<EndpointSets>>,
    ) -> Endpoints {
        let mut sets = Endpoints::new();
        for (service, _) in self.by_target.keys() {
            let ports = services.get(service).map_or(&[][..], |info| &info.ports);
            for port in ports {
                if let (Some(Ok(tls)), Some(known)) = (self.for_port(port), known(&port.id)) {
                    let with_tls = known.map(|set| EndpointSet {
                        // A port that is declared as TLS does not declare the protocol within TLS.
                        protocol: match set.protocol {
                            Protocol::Tls => Protocol::Detect,
                            other => other,
                        },
                        tls: Some(Arc::clone(tls)),
                        ..EndpointSet::clone(set)
                    });
                    sets.insert(Arc::clone(&port.id), Arc::new(with_tls));
                }
            }
        }
        sets
    }

    /// Returns the statuses of the policies whose target is a backend of a Gateway.
    pub(crate) fn statuses(
        &self,
        services: &Services,
        used: &BTreeMap<GatewayId, BTreeSet<ServicePort>>,
    ) -> Vec<PolicyStatus> {
        let mut statuses: Vec<PolicyStatus> = (0..self.all.len())
            .filter_map(|position| self.status(position, services, used))
            .collect();
        statuses.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        statuses
    }

    fn status(
        &self,
        position: usize,
        services: &Services,
        used: &BTreeMap<GatewayId, BTreeSet<ServicePort>>,
    ) -> Option<PolicyStatus> {
        let policy = &self.all[position];
        let uses = |ports: &BTreeSet<ServicePort>| {
            let mut targets = policy.targets.iter();
            targets.any(|(service, section)| {
                ports.iter().any(|port| {
                    let info = services.get(service);
                    let info = info.and_then(|info| info.port(i64::from(port.port)));
                    let named = |name: &String| info.is_some_and(|info| info.name == *name);
                    port.service == *service && section.as_ref().is_none_or(named)
                })
            })
        };
        let conditions = self.conditions(position);
        let ancestors: Vec<AncestorStatus> = used
            .iter()
            .filter(|(_, ports)| uses(ports))
            .take(MAX_ANCESTORS)
            .map(|(gateway, _)| AncestorStatus {
                ancestor: ParentRef {
                    group: Some(GROUP.to_owned()),
                    kind: Some("Gateway".to_owned()),
                    namespace: Some(gateway.namespace.to_string()),
                    name: gateway.name.to_string(),
                    section_name: None,
                    port: None,
                },
                conditions: conditions.clone(),
            })
            .collect();
        (!ancestors.is_empty()).then(|| PolicyStatus {
            namespace: policy.meta.namespace.clone(),
            name: policy.meta.name.clone(),
            generation: policy.meta.generation,
            ancestors,
        })
    }

    fn conditions(&self, position: usize) -> Vec<Condition> {
        let policy = &self.all[position];
        let lost: Vec<String> = policy
            .targets
            .iter()
            .filter_map(|target| {
                let winner = *self.by_target.get(target)?;
                let Meta {
                    namespace, name, ..
                } = &self.all[winner].meta;
                let why = format!(
                    "{} is already targeted by the older policy {namespace}/{name}",
                    target.0.with_kind()
                );
                (winner != position).then_some(why)
            })
            .collect();
        let accepted = if !lost.is_empty() && lost.len() == policy.targets.len() {
            let why = format!("{}; remove one of the two policies", lost.join("; "));
            condition("Accepted", false, "Conflicted", why)
        } else if let Some(fault) = &policy.invalid {
            let why = format!("requests to its targets get 500: {}", fault.text);
            condition("Accepted", false, fault.reason, why)
        } else {
            let mut message = "the policy is in effect".to_owned();
            if !lost.is_empty() {
                message += &format!(
                    ", except where another policy takes precedence: {}",
                    lost.join("; ")
                );
            }
            condition("Accepted", true, "Accepted", message)
        };
        let resolved = match policy.unresolved.first() {
            None => {
                let message = "all references are resolved".to_owned();
                condition("ResolvedRefs", true, "ResolvedRefs", message)
            }
            Some(first) => {
                let why = join(policy.unresolved.iter());
                condition("ResolvedRefs", false, first.reason, why)
            }
        };
        vec![accepted, resolved]
    }
}
