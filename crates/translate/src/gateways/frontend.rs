//! Validation of client certificates, by port.
//!
//! Source: `FrontendTLSConfig`, `FrontendTLSValidation`: the configuration of a port replaces the
//! default, even if it has no validation. It only applies to listeners of protocol HTTPS.

use std::collections::BTreeMap;

use weft_ir::ClientValidation;

use crate::conditions::Fault;
use crate::objects::{FrontendTls, FrontendTlsConfig, FrontendValidation, PortTls};
use crate::references::certificates::{CertificateReader, FRONTEND_CA};

/// The validation of client certificates on each port of a Gateway.
#[derive(Debug, Default)]
pub(crate) struct FrontendValidations {
    default: Option<Validation>,
    ports: BTreeMap<i64, Option<Validation>>,
}

/// How client certificates are validated.
#[derive(Debug)]
pub(crate) struct Validation {
    /// The error is why no client could be accepted.
    pub(crate) clients: Result<ClientValidation, Fault>,
    /// Faults of the condition ResolvedRefs.
    pub(crate) unresolved: Vec<Fault>,
}

impl FrontendValidations {
    pub(crate) fn new(spec: Option<&FrontendTls>, reader: CertificateReader<'_>) -> Self {
        let Some(FrontendTls { for_all, per_port }) = spec else {
            return Self::default();
        };
        let ports = per_port.iter().map(|PortTls { port, tls }| {
            let at = format!("spec.tls.frontend.perPort[port {port}].tls");
            (*port, validation(tls, &at, reader))
        });
        Self {
            default: validation(for_all, "spec.tls.frontend.default", reader),
            ports: ports.collect(),
        }
    }

    pub(crate) fn of(&self, port: u16) -> Option<&Validation> {
        let own = self.ports.get(&i64::from(port));
        own.unwrap_or(&self.default).as_ref()
    }

    /// Returns true if clients without a valid certificate are accepted on some port.
    pub(crate) fn insecure(&self) -> bool {
        let mut all = self.ports.values().chain([&self.default]).flatten();
        all.any(|of| of.clients.as_ref().is_ok_and(|of| of.insecure_fallback))
    }
}

fn validation(
    spec: &FrontendTlsConfig,
    at: &str,
    reader: CertificateReader<'_>,
) -> Option<Validation> {
    let FrontendValidation {
        ca_certificate_refs,
        mode,
    } = spec.validation.as_ref()?;
    let at = format!("{at}.validation");
    let refs = format!("{at}.caCertificateRefs");
    let (roots, unresolved) = reader.bundles(ca_certificate_refs, &refs, FRONTEND_CA);
    let insecure_fallback = match mode.as_deref() {
        None | Some("" | "AllowValidOnly") => Ok(false),
        Some("AllowInsecureFallback") => Ok(true),
        Some(other) => {
            let why = format_args!(
                "{other:?} is not supported; supported modes are AllowValidOnly, \
                 AllowInsecureFallback"
            );
            Err(Fault::value(&format!("{at}.mode"), why))
        }
    };
    let roots = roots.ok_or_else(|| {
        let why: Vec<&str> = unresolved.iter().map(|fault| &*fault.text).collect();
        let why = if why.is_empty() {
            format!("{refs} is empty")
        } else {
            why.join("; ")
        };
        Fault {
            reason: "NoValidCACertificate",
            text: format!("client certificates cannot be validated: {why}"),
        }
    });
    let clients = insecure_fallback.and_then(|insecure_fallback| {
        Ok(ClientValidation {
            roots: roots?,
            insecure_fallback,
        })
    });
    Some(Validation {
        clients,
        unresolved,
    })
}
