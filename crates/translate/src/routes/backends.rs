//! backendRefs: which endpoints they mean, and why some mean none.
//!
//! Source: `HTTPRouteRule.backendRefs` and `BackendObjectReference`; GEP-1294: routes of Services may name backends in
//! any namespace without a ReferenceGrant. A backend means the Service's endpoints: its own routes are not applied.
//! GEP-1748: what holds for a Service as a backend holds for a ServiceImport.

use std::sync::Arc;

use weft_ir::{
    Backend, Filter, Protocol, RouteId, RouteKind, ServiceId, ServiceKind, ServicePort,
    WeightedBackend,
};

use super::report::Report;
use super::resolver::Resolver;
use crate::cluster::services::{Frontend, PortInfo, ServiceInfo};
use crate::conditions::Fault;
use crate::objects::port_number;
use crate::objects::{BackendObjectRef, BackendRef, Lenient};
use crate::references::grants::{Grants, Referent, Referrer};

/// The group of ServiceImports.
const MULTI_CLUSTER: &str = "multicluster.x-k8s.io";

/// The largest weight that the specification allows.
const MAX_WEIGHT: i64 = 1_000_000;

/// Where the backendRefs of a rule stand.
pub(super) struct Context<'a> {
    pub(super) route: &'a RouteId,
    pub(super) rule: u32,
    pub(super) resolver: &'a Resolver,
}

pub(super) struct Backends {
    pub(super) list: Vec<WeightedBackend>,
    /// Not one of them can be used as it was meant, for what it says itself.
    pub(super) all_faulty: bool,
}

type FilterReader<F> =
    fn(&[Lenient<F>], &str, &Context<'_>, &mut Report) -> Result<Vec<Filter>, Fault>;

/// What is sent to backends: their Service ports may say that they speak something else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    Requests,
    Bytes,
    Datagrams,
}

/// The backends of a rule for requests.
pub(super) fn backends<F>(
    refs: &[Lenient<BackendRef<F>>],
    context: &Context<'_>,
    read_filters: FilterReader<F>,
    report: &mut Report,
) -> Backends {
    all_backends(refs, context, read_filters, Carries::Requests, report)
}

/// The backends of a rule for connections or datagrams: whatever they speak.
pub(super) fn byte_backends<F>(
    refs: &[Lenient<BackendRef<F>>],
    context: &Context<'_>,
    read_filters: FilterReader<F>,
    report: &mut Report,
) -> Backends {
    let carries = match context.route.kind {
        RouteKind::Udp => Carries::Datagrams,
        _ => Carries::Bytes,
    };
    all_backends(refs, context, read_filters, carries, report)
}

fn all_backends<F>(
    refs: &[Lenient<BackendRef<F>>],
    context: &Context<'_>,
    read_filters: FilterReader<F>,
    carries: Carries,
    report: &mut Report,
) -> Backends {
    let mut list = Vec::with_capacity(refs.len());
    let mut faulty = 0;
    for (place, entry) in refs.iter().enumerate() {
        let at = format!("rules[{}].backendRefs[{place}]", context.rule);
        match backend(entry, &at, context, read_filters, carries, report) {
            Ok(backend) => list.push(backend),
            Err(fault) => {
                faulty += 1;
                list.push(WeightedBackend {
                    weight: weight_or_one(entry),
                    backend: Backend::Invalid(Arc::from(&*fault.text)),
                    filters: Vec::new(),
                });
                report.fault(context.rule, fault);
            }
        }
    }
    Backends {
        all_faulty: !list.is_empty() && faulty == list.len(),
        list,
    }
}

/// Errors when the entry itself is wrong; a reference that leads nowhere is a backend that is invalid.
fn backend<F>(
    entry: &Lenient<BackendRef<F>>,
    at: &str,
    context: &Context<'_>,
    read_filters: FilterReader<F>,
    carries: Carries,
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
            let why = format_args!("{other} is not in 0 to {MAX_WEIGHT}");
            return Err(Fault::value(&format!("{at}.weight"), why));
        }
    };
    let filters = read_filters(filters, &format!("{at}.filters"), context, report)?;
    let named = Named {
        group,
        kind: kind.as_deref(),
        name,
        namespace: namespace.as_deref(),
        port: *port,
    };
    let backend = match resolve(&named, at, context, carries, report) {
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

/// The share of a backend that cannot be used.
fn weight_or_one<F>(entry: &Lenient<BackendRef<F>>) -> u32 {
    let weight = entry.as_ref().ok().and_then(|spec| spec.weight);
    weight
        .filter(|weight| (0..=MAX_WEIGHT).contains(weight))
        .map_or(1, |weight| weight as u32)
}

/// What a reference names.
struct Named<'a> {
    group: &'a str,
    kind: Option<&'a str>,
    name: &'a str,
    namespace: Option<&'a str>,
    port: Option<i64>,
}

/// As [`resolve`], of a reference without weight and filters.
pub(super) fn resolve_object(
    spec: &BackendObjectRef,
    at: &str,
    context: &Context<'_>,
    report: &mut Report,
) -> Result<Resolved, Fault> {
    let BackendObjectRef {
        group,
        kind,
        name,
        namespace,
        port,
    } = spec;
    let named = Named {
        group,
        kind: kind.as_deref(),
        name,
        namespace: namespace.as_deref(),
        port: *port,
    };
    resolve(&named, at, context, Carries::Requests, report)
}

/// The Service port that is meant, or why nothing may be sent to it, which is no fault of the reference.
type Resolved = Result<ServicePort, Arc<str>>;

fn resolve(
    named: &Named<'_>,
    at: &str,
    context: &Context<'_>,
    carries: Carries,
    report: &mut Report,
) -> Result<Resolved, Fault> {
    let Named {
        group,
        kind,
        name,
        namespace,
        port,
    } = *named;
    let kind = service_kind(group, kind.unwrap_or("Service"), context.resolver)
        .map_err(|why| unresolved("InvalidKind", at, &why))?;
    let namespace = namespace.filter(|named| !named.is_empty());
    let id = ServiceId {
        kind,
        namespace: namespace.unwrap_or(&context.route.namespace).to_owned(),
        name: name.to_owned(),
    };
    if let Some(rules) = &context.resolver.gateway {
        permit(&id, context.route, &rules.grants)
            .map_err(|why| unresolved("RefNotPermitted", at, &why))?;
    }
    let Some(service) = context.resolver.service(&id) else {
        let why = format!("there is no {}", id.with_kind());
        return Err(unresolved("BackendNotFound", at, &why));
    };
    if service.frontend == Frontend::ExternalName {
        let why = format!(
            "Service {id} is of type ExternalName, which is not supported: it may lead out of the cluster \
             (CVE-2021-25740)"
        );
        return Err(unresolved("InvalidKind", at, &why));
    }
    let info = resolve_port(&id, service, port, at, carries)?;
    let port = info.id.as_ref().clone();
    let Some(rules) = &context.resolver.gateway else {
        return check_protocol(&port, info, at, carries).map(|()| Ok(port));
    };
    report.targets.insert(port.clone());
    let policy = rules.policies.of(info);
    // TLS is none of datagrams.
    match policy.filter(|_| carries != Carries::Datagrams) {
        Some(Err(why)) => return Ok(Err(Arc::clone(why))),
        Some(Ok(_)) if info.protocol == Protocol::Tls => {}
        Some(Ok(_)) | None => check_protocol(&port, info, at, carries)?,
    }
    report.usable.insert(port.clone());
    Ok(Ok(port))
}

/// References of Gateways' routes over the border of a namespace need a ReferenceGrant.
fn permit(id: &ServiceId, route: &RouteId, grants: &Grants) -> Result<(), String> {
    let (group, kind) = match id.kind {
        ServiceKind::Service => ("", "Service"),
        ServiceKind::Import => (MULTI_CLUSTER, "ServiceImport"),
    };
    let from = Referrer {
        kind: &route.kind.to_string(),
        namespace: &route.namespace,
    };
    let to = Referent {
        group,
        kind,
        namespace: &id.namespace,
        name: &id.name,
    };
    grants.check(from, to)
}

/// Errors with what backends may be.
fn service_kind(group: &str, kind: &str, resolver: &Resolver) -> Result<ServiceKind, String> {
    match (group, kind) {
        ("" | "core", "Service") => Ok(ServiceKind::Service),
        (MULTI_CLUSTER, "ServiceImport") if resolver.has_imports() => Ok(ServiceKind::Import),
        (MULTI_CLUSTER, "ServiceImport") => Err(format!(
            "the cluster has no kind ServiceImport of group {MULTI_CLUSTER}; install the definitions of the \
             Multi-Cluster Services API"
        )),
        _ => {
            let group = if group.is_empty() { "core" } else { group };
            Err(format!(
                "kind {kind} of group {group} is not supported; a backend is a Service, or a ServiceImport of group \
                 {MULTI_CLUSTER}"
            ))
        }
    }
}

fn resolve_port<'s>(
    id: &ServiceId,
    service: &'s ServiceInfo,
    port: Option<i64>,
    at: &str,
    carries: Carries,
) -> Result<&'s PortInfo, Fault> {
    let has = service.describe_ports();
    let named = id.with_kind();
    let Some(number) = port else {
        let why = format!("port is missing; {named} has {has}");
        return Err(unresolved("BackendNotFound", at, &why));
    };
    let (found, wanted) = match carries {
        Carries::Datagrams => (service.udp_port(number), "UDP"),
        Carries::Requests | Carries::Bytes => (service.port(number), "TCP"),
    };
    if let Some(info) = found {
        if carries == Carries::Datagrams && service.split.contains(&info.number) {
            let why = format!(
                "port {number} of {named} is UDP and TCP with different target ports, which cannot be told apart; give UDP a \
                 number of its own"
            );
            return Err(unresolved("UnsupportedProtocol", at, &why));
        }
        return Ok(info);
    }
    let other = match carries {
        Carries::Datagrams => service.port(number).map(|_| "TCP"),
        Carries::Requests | Carries::Bytes => None,
    };
    let number_if_any = port_number(number);
    let other = other.or_else(|| service.other_transport(number_if_any?));
    Err(match other {
        Some(transport) => {
            let why = format!("port {number} of {named} is {transport}, not {wanted}");
            unresolved("UnsupportedProtocol", at, &why)
        }
        None => {
            let why = format!("{named} has no port {number}; it has {has}");
            unresolved("BackendNotFound", at, &why)
        }
    })
}

/// Whether requests can be sent to what the port says it speaks.
fn check_protocol(
    port: &ServicePort,
    info: &PortInfo,
    at: &str,
    carries: Carries,
) -> Result<(), Fault> {
    let speaks = match info.protocol {
        Protocol::Tls if carries == Carries::Requests => "TLS of the application's own",
        Protocol::Tcp if carries == Carries::Requests => "opaque TCP",
        _ => return Ok(()),
    };
    let why = format!(
        "port {} of {} speaks {speaks} by its appProtocol or name, so HTTP cannot be sent to it; set \
         appProtocol: http if it speaks HTTP",
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
