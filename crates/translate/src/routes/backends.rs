//! backendRefs: the endpoints they refer to, or why they refer to none.
//!
//! Source: `HTTPRouteRule.backendRefs` and `BackendObjectReference`. GEP-1294: routes on Services
//! may name backends in any namespace without a ReferenceGrant. A backend stands for the endpoints
//! of the Service, without the Service's own routes. GEP-1748: a ServiceImport is a backend in the
//! same way as a Service.

use std::sync::Arc;

use weft_ir::{
    Backend, Filter, Protocol, RouteId, RouteKind, ServiceId, ServiceKind, ServicePort,
    WeightedBackend,
};

use super::report::Report;
use super::resolver::TrackedLookup;
use crate::cluster::services::{PortInfo, ServiceAddressing, ServiceInfo};
use crate::conditions::Fault;
use crate::objects::port_number;
use crate::objects::{BackendObjectRef, BackendRef, Lenient};
use crate::references::grants::{Grants, Referent, Referrer};

/// API group of ServiceImport.
const MULTI_CLUSTER: &str = "multicluster.x-k8s.io";

/// Maximum weight allowed by the specification.
const MAX_WEIGHT: i64 = 1_000_000;

/// The rule that backendRefs belong to.
pub(super) struct RuleContext<'a> {
    pub(super) route: &'a RouteId,
    pub(super) rule: u32,
    pub(super) lookup: &'a TrackedLookup<'a>,
}

impl RuleContext<'_> {
    fn referrer<'a>(&'a self, kind: &'a str) -> Referrer<'a> {
        Referrer {
            kind,
            namespace: &self.route.namespace,
        }
    }
}

/// The backends of a rule.
pub(super) struct Backends {
    pub(super) list: Vec<WeightedBackend>,
    /// None of them is usable, because of faults in the entries themselves.
    pub(super) all_invalid: bool,
}

type FilterReader<F> =
    fn(&[Lenient<F>], &str, &RuleContext<'_>, &mut Report) -> Result<Vec<Filter>, Fault>;

/// What is sent to backends. The declared protocol of a Service port may not fit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    Requests,
    Connections,
    Datagrams,
}

/// Reads the backends of a rule for requests.
pub(super) fn backends<F>(
    refs: &[Lenient<BackendRef<F>>],
    context: &RuleContext<'_>,
    read_filters: FilterReader<F>,
    report: &mut Report,
) -> Backends {
    all_backends(refs, context, read_filters, Payload::Requests, report)
}

/// Reads the backends of a rule for connections or datagrams, of any protocol.
pub(super) fn connection_backends<F>(
    refs: &[Lenient<BackendRef<F>>],
    context: &RuleContext<'_>,
    read_filters: FilterReader<F>,
    report: &mut Report,
) -> Backends {
    let payload = match context.route.kind {
        RouteKind::Udp => Payload::Datagrams,
        _ => Payload::Connections,
    };
    all_backends(refs, context, read_filters, payload, report)
}

fn all_backends<F>(
    refs: &[Lenient<BackendRef<F>>],
    context: &RuleContext<'_>,
    read_filters: FilterReader<F>,
    payload: Payload,
    report: &mut Report,
) -> Backends {
    let mut list = Vec::with_capacity(refs.len());
    let mut faulty = 0;
    for (position, entry) in refs.iter().enumerate() {
        let at = format!("rules[{}].backendRefs[{position}]", context.rule);
        match backend(entry, &at, context, read_filters, payload, report) {
            Ok(backend) => list.push(backend),
            Err(fault) => {
                faulty += 1;
                list.push(WeightedBackend {
                    weight: weight_or_default(entry),
                    backend: Backend::Invalid(Arc::from(&*fault.text)),
                    filters: Vec::new(),
                });
                report.failure(context.rule, fault);
            }
        }
    }
    Backends {
        all_invalid: !list.is_empty() && faulty == list.len(),
        list,
    }
}

/// Returns an error if the entry itself is invalid. A reference that cannot be resolved results in
/// an invalid backend.
fn backend<F>(
    entry: &Lenient<BackendRef<F>>,
    at: &str,
    context: &RuleContext<'_>,
    read_filters: FilterReader<F>,
    payload: Payload,
    report: &mut Report,
) -> Result<WeightedBackend, Fault> {
    let spec = entry.as_ref().map_err(|why| Fault::value(at, why))?;
    let BackendRef {
        group,
        kind,
        name,
        namespace,
        port,
        weight,
        filters,
    } = spec;
    let weight = match weight.unwrap_or(1) {
        weight @ 0..=MAX_WEIGHT => weight as u32,
        other => {
            let why = format_args!("{other} is not between 0 and {MAX_WEIGHT}");
            return Err(Fault::value(&format!("{at}.weight"), why));
        }
    };
    let filters = read_filters(filters, &format!("{at}.filters"), context, report)?;
    let target = BackendTarget {
        group,
        kind: kind.as_deref(),
        name,
        namespace: namespace.as_deref(),
        port: *port,
    };
    let kind = context.route.kind.to_string();
    let from = context.referrer(&kind);
    let backend = match resolve(&target, at, (from, context.lookup), payload, report) {
        Ok(Ok(port)) => Backend::Service(port),
        Ok(Err(why)) => Backend::Invalid(why),
        Err(fault) => {
            let reason = Arc::from(&*fault.text);
            report.unresolved.push(fault);
            Backend::Invalid(reason)
        }
    };
    Ok(WeightedBackend {
        weight,
        backend,
        filters,
    })
}

/// Returns the weight of an invalid backend.
fn weight_or_default<F>(entry: &Lenient<BackendRef<F>>) -> u32 {
    let weight = entry.as_ref().ok().and_then(|spec| spec.weight);
    weight
        .filter(|weight| (0..=MAX_WEIGHT).contains(weight))
        .map_or(1, |weight| weight as u32)
}

/// The object and port that a reference names.
struct BackendTarget<'a> {
    group: &'a str,
    kind: Option<&'a str>,
    name: &'a str,
    namespace: Option<&'a str>,
    port: Option<i64>,
}

/// Like [`resolve`], for a reference without weight and filters.
pub(super) fn resolve_object(
    spec: &BackendObjectRef,
    at: &str,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> Result<Resolved, Fault> {
    let kind = context.route.kind.to_string();
    resolve_object_of(spec, at, context.referrer(&kind), context.lookup, report)
}

/// Like [`resolve_object`], for a reference of any object.
pub(super) fn resolve_object_of(
    spec: &BackendObjectRef,
    at: &str,
    from: Referrer<'_>,
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> Result<Resolved, Fault> {
    let BackendObjectRef {
        group,
        kind,
        name,
        namespace,
        port,
    } = spec;
    let target = BackendTarget {
        group,
        kind: kind.as_deref(),
        name,
        namespace: namespace.as_deref(),
        port: *port,
    };
    resolve(&target, at, (from, lookup), Payload::Requests, report)
}

/// The referenced Service port, or why nothing may be sent to it although the reference is valid.
pub(super) type Resolved = Result<ServicePort, Arc<str>>;

fn resolve(
    target: &BackendTarget<'_>,
    at: &str,
    (from, lookup): (Referrer<'_>, &TrackedLookup<'_>),
    payload: Payload,
    report: &mut Report,
) -> Result<Resolved, Fault> {
    let BackendTarget {
        group,
        kind,
        name,
        namespace,
        port,
    } = *target;
    let kind = service_kind(group, kind.unwrap_or("Service"), lookup)
        .map_err(|why| unresolved("InvalidKind", at, &why))?;
    let namespace = namespace.filter(|target| !target.is_empty());
    let id = ServiceId {
        kind,
        namespace: namespace.unwrap_or(from.namespace).to_owned(),
        name: name.to_owned(),
    };
    if let Some(rules) = lookup.gateway() {
        permit(&id, from, &rules.grants).map_err(|why| unresolved("RefNotPermitted", at, &why))?;
    }
    let Some(service) = lookup.service(&id) else {
        let why = format!("{} does not exist", id.with_kind());
        return Err(unresolved("BackendNotFound", at, &why));
    };
    if service.addressing == ServiceAddressing::ExternalName {
        let why = format!(
            "Service {id} is of type ExternalName, which is not supported because it can point \
             outside the cluster (CVE-2021-25740)"
        );
        return Err(unresolved("InvalidKind", at, &why));
    }
    let info = resolve_port(&id, service, port, at, payload)?;
    let port = info.id.as_ref().clone();
    let Some(rules) = lookup.gateway() else {
        return check_protocol(&port, info, at, payload).map(|()| Ok(port));
    };
    report.targets.insert(port.clone());
    let policy = rules.policies.for_port(info);
    // TLS does not apply to datagrams.
    match policy.filter(|_| payload != Payload::Datagrams) {
        Some(Err(why)) => return Ok(Err(Arc::clone(why))),
        Some(Ok(_)) if info.protocol == Protocol::Tls => {}
        Some(Ok(_)) | None => check_protocol(&port, info, at, payload)?,
    }
    report.usable.insert(port.clone());
    Ok(Ok(port))
}

/// References of Gateways' routes to another namespace need a ReferenceGrant.
fn permit(id: &ServiceId, from: Referrer<'_>, grants: &Grants) -> Result<(), String> {
    let (group, kind) = match id.kind {
        ServiceKind::Service => ("", "Service"),
        ServiceKind::Import => (MULTI_CLUSTER, "ServiceImport"),
    };
    let to = Referent {
        group,
        kind,
        namespace: &id.namespace,
        name: &id.name,
    };
    grants.check(from, to)
}

/// Returns an error that names the supported kinds.
fn service_kind(
    group: &str,
    kind: &str,
    lookup: &TrackedLookup<'_>,
) -> Result<ServiceKind, String> {
    match (group, kind) {
        ("" | "core", "Service") => Ok(ServiceKind::Service),
        (MULTI_CLUSTER, "ServiceImport") if lookup.has_imports() => Ok(ServiceKind::Import),
        (MULTI_CLUSTER, "ServiceImport") => Err(format!(
            "the cluster does not serve kind ServiceImport of group {MULTI_CLUSTER}; install the \
             CRDs of the Multi-Cluster Services API"
        )),
        _ => {
            let group = if group.is_empty() { "core" } else { group };
            Err(format!(
                "kind {kind} of group {group} is not supported; use a Service, or a ServiceImport \
                 of group {MULTI_CLUSTER}"
            ))
        }
    }
}

fn resolve_port<'s>(
    id: &ServiceId,
    service: &'s ServiceInfo,
    port: Option<i64>,
    at: &str,
    payload: Payload,
) -> Result<&'s PortInfo, Fault> {
    let has = service.describe_ports();
    let target = id.with_kind();
    let Some(number) = port else {
        let why = format!("port is required; {target} has {has}");
        return Err(unresolved("BackendNotFound", at, &why));
    };
    let (found, wanted) = match payload {
        Payload::Datagrams => (service.udp_port(number), "UDP"),
        Payload::Requests | Payload::Connections => (service.port(number), "TCP"),
    };
    if let Some(info) = found {
        if payload == Payload::Datagrams && service.split.contains(&info.number) {
            let why = format!(
                "port {number} of {target} is both UDP and TCP with different target ports, which \
                 is not supported; use different port numbers"
            );
            return Err(unresolved("UnsupportedProtocol", at, &why));
        }
        return Ok(info);
    }
    let other = match payload {
        Payload::Datagrams => service.port(number).map(|_| "TCP"),
        Payload::Requests | Payload::Connections => None,
    };
    let number_if_any = port_number(number);
    let other = other.or_else(|| service.other_transport(number_if_any?));
    Err(match other {
        Some(transport) => {
            let why = format!("port {number} of {target} is {transport}, not {wanted}");
            unresolved("UnsupportedProtocol", at, &why)
        }
        None => {
            let why = format!("{target} has no port {number}; it has {has}");
            unresolved("BackendNotFound", at, &why)
        }
    })
}

/// Checks that requests can be sent to the declared protocol of the port.
fn check_protocol(
    port: &ServicePort,
    info: &PortInfo,
    at: &str,
    payload: Payload,
) -> Result<(), Fault> {
    let protocol = match info.protocol {
        Protocol::Tls if payload == Payload::Requests => "TLS",
        Protocol::Tcp if payload == Payload::Requests => "opaque TCP",
        _ => return Ok(()),
    };
    let why = format!(
        "port {} of {} is declared as {protocol} by its appProtocol or name, so HTTP cannot be \
         sent to it; set appProtocol: http if it speaks HTTP",
        port.port,
        port.service.with_kind()
    );
    Err(unresolved("UnsupportedProtocol", at, &why))
}

fn unresolved(reason: &'static str, at: &str, why: &str) -> Fault {
    Fault {
        reason,
        text: format!("{at}: {why}"),
    }
}
