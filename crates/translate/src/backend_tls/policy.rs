//! One BackendTLSPolicy: its targets, and the TLS configuration that it requires.

use std::sync::Arc;

use weft_ir::{AlternativeName, BackendRoots, BackendTls, HostPattern, ServiceId};

use crate::conditions::{Fault, join};
use crate::names::unknown_option;
use crate::objects::{
    BackendTlsPolicySpec, BackendTlsValidation, Lenient, Meta, ObjectRef, PolicyTarget,
    SubjectAltName,
};
use crate::references::certificates::{BACKEND_CA, CertificateReader, ReferencedObjects};
use crate::references::grants::{Grants, Referrer};

/// A target of a policy: all ports of a Service, or the port with this name.
pub(super) type Target = (ServiceId, Option<String>);

/// A BackendTLSPolicy.
#[derive(Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) meta: Meta,
    pub(super) targets: Vec<Target>,
    /// The required TLS configuration, or why nothing can be sent to the targets.
    pub(super) tls: Result<Arc<BackendTls>, Arc<str>>,
    /// Fault of the condition Accepted if the policy is invalid.
    pub(super) invalid: Option<Fault>,
    /// Faults of the condition ResolvedRefs.
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

    pub(super) fn new(
        meta: &Meta,
        spec: &BackendTlsPolicySpec,
        data: &ReferencedObjects<'_>,
    ) -> Self {
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
                    &format!("option {name:?} is not supported"),
                )),
            });
        let whose = format!("BackendTLSPolicy {}/{}", meta.namespace, meta.name);
        Self {
            meta: meta.clone(),
            targets: targets.collect(),
            invalid: tls.as_ref().err().cloned(),
            tls: tls
                .map(Arc::new)
                .map_err(|fault| format!("{whose} is invalid: {}", fault.text).into()),
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
    data: &ReferencedObjects<'_>,
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
            let why = "cannot be combined with caCertificateRefs; remove one of the two";
            return Err(invalid("spec.validation.wellKnownCACertificates", why));
        }
        Some(other) => {
            let why = format!("{other:?} is not supported; the only supported value is System");
            return Err(invalid("spec.validation.wellKnownCACertificates", &why));
        }
    };
    match hostname.parse() {
        Ok(HostPattern::Exact(_)) => {}
        _ => {
            let why = format!("{hostname:?} is not a host name");
            return Err(invalid("spec.validation.hostname", &why));
        }
    }
    Ok(BackendTls {
        hostname: Arc::from(&*hostname.to_ascii_lowercase()),
        alternative_names: subject_alt_names
            .iter()
            .enumerate()
            .map(|(position, entry)| alternative_name(position, entry))
            .collect::<Result<_, _>>()?,
        roots,
    })
}

fn roots(
    meta: &Meta,
    refs: &[Lenient<ObjectRef>],
    data: &ReferencedObjects<'_>,
    unresolved: &mut Vec<Fault>,
) -> Result<BackendRoots, Fault> {
    let grants = Grants::default();
    let reader = CertificateReader {
        data,
        // CA references are local: no grant can permit others.
        grants: &grants,
        from: Referrer {
            kind: "BackendTLSPolicy",
            namespace: &meta.namespace,
        },
    };
    let at = "spec.validation.caCertificateRefs";
    let (bundle, faults) = reader.bundles(refs, at, BACKEND_CA);
    let why = match faults.is_empty() {
        true => format!("{at} is empty, and wellKnownCACertificates is not set"),
        false => join(faults.iter()),
    };
    unresolved.extend(faults);
    bundle.map(BackendRoots::Pem).ok_or(Fault {
        reason: "NoValidCACertificate",
        text: why,
    })
}

fn alternative_name(
    position: usize,
    entry: &Lenient<SubjectAltName>,
) -> Result<AlternativeName, Fault> {
    let at = format!("spec.validation.subjectAltNames[{position}]");
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
            let why = format!("type {other:?} is not supported; supported types are Hostname, URI");
            Err(invalid(&at, &why))
        }
    }
}
