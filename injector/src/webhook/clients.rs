//! Client certificates of API servers: verified by a CA bundle in a file, which is read again when
//! it changes, and by the names that a certificate must have. Without a bundle every client may
//! connect: clusters have to be configured to show a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::metrics::Metrics;

/// How often the file is compared. The kubelet updates files of ConfigMaps and Secrets late anyway.
const PERIOD: Duration = Duration::from_secs(10);

/// The clients that the webhook accepts.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The file of the CA bundle, PEM.
    pub bundle: PathBuf,
    /// Common names or DNS names, of which a certificate must have one; empty: any.
    pub names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("the CA bundle of the webhook's clients, {}: {reason}", .path.display())]
pub(super) struct BundleError {
    path: PathBuf,
    reason: String,
}

/// Verifies client certificates by the newest usable version of the bundle.
#[derive(Debug)]
pub(super) struct ClientAuthority {
    clients: Clients,
    current: ArcSwap<Bundle>,
}

#[derive(Debug)]
struct Bundle {
    pem: Vec<u8>,
    chains: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// Fails if the file is not readable, has no certificate, or one that is not usable.
    pub(super) fn read(clients: Clients) -> Result<Self, BundleError> {
        let current = Bundle::read(&clients.bundle)?;
        Ok(Self {
            clients,
            current: ArcSwap::from_pointee(current),
        })
    }

    /// Reads the file again. Returns true if it has changed; on failure the previous version stays
    /// in use.
    pub(super) fn reload(&self) -> Result<bool, BundleError> {
        let read = Bundle::read(&self.clients.bundle)?;
        let changed = read.pem != self.current.load().pem;
        if changed {
            self.current.store(Arc::new(read));
        }
        Ok(changed)
    }

    /// Follows changes of the file until `stop`. Failures are logged, counted and retried.
    pub(super) async fn follow(&self, metrics: &Metrics, stop: CancellationToken) {
        let next = || stop.run_until_cancelled(tokio::time::sleep(PERIOD));
        while next().await.is_some() {
            match self.reload() {
                Ok(false) => {}
                Ok(true) => tracing::info!(
                    path = %self.clients.bundle.display(),
                    "verifying clients by a new CA bundle"
                ),
                Err(error) => {
                    metrics.client_ca_failures.inc();
                    tracing::warn!(%error, "the previous CA bundle stays in use");
                }
            }
        }
    }
}

impl Bundle {
    fn read(path: &Path) -> Result<Self, BundleError> {
        let failed = |reason: String| BundleError {
            path: path.to_owned(),
            reason,
        };
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let chains = verifier(&pem).map_err(failed)?;
        Ok(Self { pem, chains })
    }
}

fn verifier(pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for (place, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let added = match certificate {
            Ok(certificate) => roots.add(certificate).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        added.map_err(|reason| format!("certificate {} is not usable: {reason}", place + 1))?;
    }
    if roots.is_empty() {
        return Err("it has no certificate in PEM".to_owned());
    }
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

impl ClientCertVerifier for ClientAuthority {
    /// None: a client shows what it has, whatever the version of the bundle.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chains = &self.current.load().chains;
        let verified = chains.verify_client_cert(leaf, intermediates, now)?;
        let names = &self.clients.names;
        if names.is_empty() || has_name(leaf, names)? {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let chains = &self.current.load().chains;
        chains.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let chains = &self.current.load().chains;
        chains.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.load().chains.supported_verify_schemes()
    }
}

/// Returns true if one of the names is the certificate's common name, or one of its DNS names.
fn has_name(leaf: &CertificateDer<'_>, names: &[String]) -> Result<bool, Error> {
    let unreadable = |_| Error::from(CertificateError::BadEncoding);
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(unreadable)?;
    let mut common = leaf.subject().iter_common_name();
    if common.any(|name| {
        name.as_str()
            .is_ok_and(|name| names.iter().any(|one| one == name))
    }) {
        return Ok(true);
    }
    let alternative = leaf
        .subject_alternative_name()
        .map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let alternative = alternative.map_or(&[][..], |san| &san.value.general_names);
    Ok(alternative.iter().any(|name| match name {
        GeneralName::DNSName(name) => names.iter().any(|one| one.eq_ignore_ascii_case(name)),
        _ => false,
    }))
}

#[cfg(test)]
mod tests;
