//! How the certificates of clients are checked, by port.
//!
//! Source: `FrontendTLSConfig`, `FrontendTLSValidation`: a port's own configuration takes the place of the default, also
//! where it has no validation; listeners of protocol HTTPS alone are concerned.

use std::collections::BTreeMap;

use weft_ir::ClientValidation;

use crate::conditions::Fault;
use crate::objects::{FrontendTls, FrontendTlsConfig, FrontendValidation, PortTls};
use crate::references::certificates::{FRONTEND_CA, Reader};

#[derive(Debug, Default)]
pub(crate) struct Frontend {
    default: Option<Validation>,
    ports: BTreeMap<i64, Option<Validation>>,
}

#[derive(Debug)]
pub(crate) struct Validation {
    /// Or why no client could ever be let in.
    pub(crate) clients: Result<ClientValidation, Fault>,
    pub(crate) unresolved: Vec<Fault>,
}

impl Frontend {
    pub(crate) fn new(spec: Option<&FrontendTls>, reader: Reader<'_>) -> Self {
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

    /// Whether clients whose certificates do not hold are let in somewhere.
    pub(crate) fn insecure(&self) -> bool {
        let mut all = self.ports.values().chain([&self.default]).flatten();
        all.any(|of| of.clients.as_ref().is_ok_and(|of| of.insecure_fallback))
    }
}

fn validation(spec: &FrontendTlsConfig, at: &str, reader: Reader<'_>) -> Option<Validation> {
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
                "{other:?} is not supported; supported are AllowValidOnly, AllowInsecureFallback"
            );
            Err(Fault::value(&format!("{at}.mode"), why))
        }
    };
    let roots = roots.ok_or_else(|| {
        let why: Vec<&str> = unresolved.iter().map(|fault| &*fault.text).collect();
        let why = if why.is_empty() {
            format!("{refs}: there is none")
        } else {
            why.join("; ")
        };
        Fault {
            reason: "NoValidCACertificate",
            text: format!("no certificate of a client could be checked: {why}"),
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
