//! One BackendTLSPolicy: its targets, and the TLS that it asks for.

use std::sync::Arc;

use weft_ir::{AlternativeName, BackendRoots, BackendTls, HostPattern, ServiceId};

use crate::conditions::{Fault, join};
use crate::names::unknown_option;
use crate::objects::{
    BackendTlsPolicySpec, BackendTlsValidation, Lenient, Meta, ObjectRef, PolicyTarget,
    SubjectAltName,
};
use crate::references::certificates::{BACKEND_CA, Data, Reader};
use crate::references::grants::{Grants, Referrer};

/// What a policy is for: all ports of a Service, or the one of a name.
pub(super) type Target = (ServiceId, Option<String>);

#[derive(Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) meta: Meta,
    pub(super) targets: Vec<Target>,
    /// What it asks for, or why nothing can be sent to its targets.
    pub(super) tls: Result<Arc<BackendTls>, Arc<str>>,
    /// Decides about Accepted, where it is not valid.
    pub(super) invalid: Option<Fault>,
    /// Decide about ResolvedRefs.
    pub(super) unresolved: Vec<Fault>,
}

impl Policy {
    pub(super) fn age(&self) -> (&str, &str, &str) {
        let Meta {
            creation_timestamp,
            namespace,
            name,
            ..
        } = &self.meta;
        (creation_timestamp, namespace, name)
    }

    pub(super) fn new(meta: &Meta, spec: &BackendTlsPolicySpec, data: &Data<'_>) -> Self {
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
