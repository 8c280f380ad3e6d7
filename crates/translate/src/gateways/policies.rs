//! BackendTLSPolicies: which one holds for a Service's port, and what is said of each.
//!
//! Source: `BackendTLSPolicySpec`, GEP-1897; GEP-713 on conflicts: the oldest holds, then the first by name; one for a port
//! goes before one for the whole Service. One that is not valid holds too: nothing may pass in plain text instead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{
    AlternativeName, BackendRoots, BackendTls, EndpointSet, GatewayId, HostPattern, Protocol,
    ServiceId, ServicePort,
};

use super::certificates::{BACKEND_CA, Data, Reader};
use super::grants::{Grants, Referrer};
use super::listeners::unknown_option;
use super::status::{AncestorStatus, GROUP, PolicyStatus};
use crate::endpoints::Endpoints;
use crate::objects::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsValidation, Lenient, Meta, ObjectRef,
    ParentRef, PolicyTarget, SubjectAltName,
};
use crate::routes::Fault;
use crate::services::{PortInfo, Services};
use crate::sets::Sets;
use crate::status::{Condition, condition, join};

/// Ancestors that a status may have.
const MAX_ANCESTORS: usize = 16;

/// What a policy is for: all ports of a Service, or the one of a name.
type Target = (ServiceId, Option<String>);

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Policies {
    /// The oldest first.
    all: Vec<Policy>,
    /// The place of the one that holds.
    by_target: HashMap<Target, usize>,
}

#[derive(Debug, PartialEq)]
struct Policy {
    meta: Meta,
    targets: Vec<Target>,
    /// What it asks for, or why nothing can be sent to its targets.
    tls: Result<Arc<BackendTls>, Arc<str>>,
    /// Decides about Accepted, where it is not valid.
    invalid: Option<Fault>,
    /// Decide about ResolvedRefs.
    unresolved: Vec<Fault>,
}

impl Policies {
    pub(crate) fn new(policies: &[Arc<BackendTlsPolicy>], data: &Data<'_>) -> Self {
        let mut all: Vec<Policy> = policies
            .iter()
            .filter_map(|policy| {
                let BackendTlsPolicy { metadata, spec } = policy.as_ref();
                Some(Policy::new(metadata, spec.as_ref().ok()?, data))
            })
            .collect();
        all.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut by_target = HashMap::new();
        for (place, policy) in all.iter().enumerate() {
            for target in &policy.targets {
                by_target.entry(target.clone()).or_insert(place);
            }
        }
        Self { all, by_target }
    }

    /// How gateways speak TLS to a port, or why nothing may be sent there; `None`: without TLS.
    pub(crate) fn of(&self, port: &PortInfo) -> Option<&Result<Arc<BackendTls>, Arc<str>>> {
        if self.by_target.is_empty() {
            return None;
        }
        let named = (port.id.service.clone(), Some(port.name.clone()));
        let place = self.by_target.get(&named);
        let place = place.or_else(|| self.by_target.get(&(named.0, None)))?;
        Some(&self.all[*place].tls)
    }

    /// The endpoint sets of the ports that policies are for.
    /// `known`: those without.
    pub(crate) fn endpoints<'k>(
        &self,
        services: &Services,
        known: impl Fn(&ServicePort) -> Option<&'k Arc<Sets>>,
    ) -> Endpoints {
        let mut sets = Endpoints::new();
        for (service, _) in self.by_target.keys() {
            let ports = services.get(service).map_or(&[][..], |info| &info.ports);
            for port in ports {
                if let (Some(Ok(tls)), Some(known)) = (self.of(port), known(&port.id)) {
                    let with_tls = known.map(|set| EndpointSet {
                        // What is within TLS is not said by a port that says TLS.
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

    /// Of the policies for Services that Gateways send to.
    pub(crate) fn statuses(
        &self,
        services: &Services,
        used: &BTreeMap<GatewayId, BTreeSet<ServicePort>>,
    ) -> Vec<PolicyStatus> {
        let mut statuses: Vec<PolicyStatus> = (0..self.all.len())
            .filter_map(|place| self.status(place, services, used))
            .collect();
        statuses.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        statuses
    }

    fn status(
        &self,
        place: usize,
        services: &Services,
        used: &BTreeMap<GatewayId, BTreeSet<ServicePort>>,
    ) -> Option<PolicyStatus> {
        let policy = &self.all[place];
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
        let conditions = self.conditions(place);
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

    fn conditions(&self, place: usize) -> Vec<Condition> {
        let policy = &self.all[place];
        let lost: Vec<String> = policy
            .targets
            .iter()
            .filter_map(|target| {
                let winner = *self.by_target.get(target)?;
                let Meta {
                    namespace, name, ..
                } = &self.all[winner].meta;
                let why = format!(
                    "{} has {namespace}/{name}, which is older",
                    target.0.with_kind()
                );
                (winner != place).then_some(why)
            })
            .collect();
        let accepted = if !lost.is_empty() && lost.len() == policy.targets.len() {
            let why = format!("{}; remove one of the two", lost.join("; "));
            condition("Accepted", false, "Conflicted", why)
        } else if let Some(fault) = &policy.invalid {
            let why = format!("requests are answered with 500: {}", fault.text);
            condition("Accepted", false, fault.reason, why)
        } else {
            let mut message = "the policy is in force".to_owned();
            if !lost.is_empty() {
                message += &format!(", but not where another is: {}", lost.join("; "));
            }
            condition("Accepted", true, "Accepted", message)
        };
        let resolved = match policy.unresolved.first() {
            None => {
                let message = "every reference was resolved".to_owned();
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

impl Policy {
    fn age(&self) -> (&str, &str, &str) {
        let Meta {
            creation_timestamp,
            namespace,
            name,
            ..
        } = &self.meta;
        (creation_timestamp, namespace, name)
    }

    fn new(meta: &Meta, spec: &BackendTlsPolicySpec, data: &Data<'_>) -> Self {
        let BackendTlsPolicySpec {
            target_refs,
            validation,
            options,
        } = spec;
        let readable = target_refs.iter().filter_map(|entry| entry.as_ref().ok());
        let targets = readable.filter_map(|target| {
            let PolicyTarget {
                group,
                kind,
                name,
                section_name,
            } = target;
            let ours = matches!(group.as_str(), "" | "core") && kind == "Service";
            let section = Some(section_name.clone()).filter(|name| !name.is_empty());
            ours.then(|| (ServiceId::new(&*meta.namespace, &**name), section))
        });
        let mut unresolved = Vec::new();
        let tls = validation
            .as_ref()
            .map_err(|why| invalid("spec.validation", why))
            .and_then(|spec| backend_tls(meta, spec, data, &mut unresolved))
            .and_then(|tls| match unknown_option(options) {
                None => Ok(tls),
                Some(name) => Err(invalid(
                    "spec.options",
                    &format!("{name:?} is not understood"),
                )),
            });
        let whose = format!("BackendTLSPolicy {}/{}", meta.namespace, meta.name);
        Self {
            meta: meta.clone(),
            targets: targets.collect(),
            invalid: tls.as_ref().err().cloned(),
            tls: tls
                .map(Arc::new)
                .map_err(|fault| format!("{whose} is not valid: {}", fault.text).into()),
            unresolved,
        }
    }
}

fn invalid(at: &str, why: &str) -> Fault {
    Fault {
        reason: "Invalid",
        text: format!("{at}: {why}"),
    }
}

fn backend_tls(
    meta: &Meta,
    spec: &BackendTlsValidation,
    data: &Data<'_>,
    unresolved: &mut Vec<Fault>,
) -> Result<BackendTls, Fault> {
    let BackendTlsValidation {
        ca_certificate_refs,
        well_known_ca_certificates,
        hostname,
        subject_alt_names,
    } = spec;
    let roots = match well_known_ca_certificates.as_deref() {
        Some("System") if ca_certificate_refs.is_empty() => BackendRoots::System,
        None | Some("") => roots(meta, ca_certificate_refs, data, unresolved)?,
        Some("System") => {
            let why = "cannot stand beside caCertificateRefs; remove one of the two";
            return Err(invalid("spec.validation.wellKnownCACertificates", why));
        }
        Some(other) => {
            let why = format!("{other:?} is not supported; supported is System");
            return Err(invalid("spec.validation.wellKnownCACertificates", &why));
        }
    };
    match hostname.parse() {
        Ok(HostPattern::Exact(_)) => {}
        _ => {
            let why = format!("{hostname:?} is not the name of one host");
            return Err(invalid("spec.validation.hostname", &why));
        }
    }
    Ok(BackendTls {
        hostname: Arc::from(&*hostname.to_ascii_lowercase()),
        alternative_names: subject_alt_names
            .iter()
            .enumerate()
            .map(|(place, entry)| alternative_name(place, entry))
            .collect::<Result<_, _>>()?,
        roots,
    })
}

fn roots(
    meta: &Meta,
    refs: &[Lenient<ObjectRef>],
    data: &Data<'_>,
    unresolved: &mut Vec<Fault>,
) -> Result<BackendRoots, Fault> {
    let grants = Grants::default();
    let reader = Reader {
        data,
        // They are local references: no grant could permit others.
        grants: &grants,
        from: Referrer {
            kind: "BackendTLSPolicy",
            namespace: &meta.namespace,
        },
    };
    let at = "spec.validation.caCertificateRefs";
    let (bundle, faults) = reader.bundles(refs, at, BACKEND_CA);
    let why = match faults.is_empty() {
        true => format!("{at}: there is none, and wellKnownCACertificates is not set"),
        false => join(faults.iter()),
    };
    unresolved.extend(faults);
    bundle.map(BackendRoots::Pem).ok_or(Fault {
        reason: "NoValidCACertificate",
        text: why,
    })
}

fn alternative_name(
    place: usize,
    entry: &Lenient<SubjectAltName>,
) -> Result<AlternativeName, Fault> {
    let at = format!("spec.validation.subjectAltNames[{place}]");
    let SubjectAltName {
        kind,
        hostname,
        uri,
    } = entry.as_ref().map_err(|why| invalid(&at, why))?;
    match kind.as_str() {
        "Hostname" if hostname.parse::<HostPattern>().is_ok() => Ok(AlternativeName::Dns(
            Arc::from(&*hostname.to_ascii_lowercase()),
        )),
        "Hostname" => Err(invalid(&at, &format!("{hostname:?} is not a host name"))),
        "URI" if uri.contains(':') => Ok(AlternativeName::Uri(Arc::from(&**uri))),
        "URI" => Err(invalid(&at, &format!("{uri:?} is not a URI"))),
        other => {
            let why = format!("type {other:?} is not supported; supported are Hostname, URI");
            Err(invalid(&at, &why))
        }
    }
}
