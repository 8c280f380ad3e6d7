//! The clients of the server: verifies their certificates against the roots that are trusted at the
//! moment of the handshake.
//!
//! A certificate is optional; one that is presented must be valid. The services decide what the
//! client may do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use time::OffsetDateTime;
use weft_ir::{Identity, IdentityError, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::trust::TrustReceiver;

/// The maximum number of intermediates; chains of the mesh have fewer.
const MAX_INTERMEDIATES: usize = 8;

/// Why a certificate does not name an identity of the mesh.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate has {0} URI names; it must have one, the SPIFFE ID")]
    UriNames(usize),
    #[error(transparent)]
    NotIdentity(#[from] IdentityError),
    #[error("the certificate is of trust domain {0}, which is not that of this mesh")]
    TrustDomain(TrustDomain),
    #[error("the chain has {0} intermediates; the limit is {MAX_INTERMEDIATES}")]
    LongChain(usize),
}

/// The client of a connection; an extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// What its certificate proves; `None` without one.
    pub proven: Option<Proven>,
    pub address: SocketAddr,
}

/// What a certificate proves, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    pub identity: Identity,
    pub until: OffsetDateTime,
}

impl Proven {
    /// Resolves once the certificate has expired by the system's clock, which may be changed
    /// meanwhile.
    pub(crate) async fn expired(&self) {
        loop {
            let left = self.until - OffsetDateTime::now_utc();
            let left = Duration::try_from(left).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }
}

/// Returns the identity in a certificate's only URI name (SPIFFE X.509-SVID, section 2). Does not
/// verify the signature.
pub fn identity_of(
    certificate: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
) -> Result<Identity, PeerError> {
    let unreadable = |e: String| PeerError::Unreadable(e);
    let (_, parsed) =
        X509Certificate::from_der(certificate.as_ref()).map_err(|e| unreadable(e.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|e| unreadable(e.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(PeerError::UriNames(uris.len()));
    };
    let identity: Identity = uri.parse()?;
    if identity.trust_domain() != trust_domain {
        return Err(PeerError::TrustDomain(identity.trust_domain().clone()));
    }
    Ok(identity)
}

/// Returns when a certificate expires.
pub fn end_of_validity(certificate: &CertificateDer<'_>) -> Result<OffsetDateTime, PeerError> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref())
        .map_err(|e| PeerError::Unreadable(e.to_string()))?;
    Ok(parsed.validity().not_after.to_datetime())
}

/// Verifies client certificates; reads the trusted roots for each handshake.
pub struct ClientVerifier {
    trust: TrustReceiver,
    trust_domain: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub fn new(trust: TrustReceiver, trust_domain: TrustDomain) -> Self {
        Self {
            trust,
            trust_domain,
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms,
        }
    }
}

impl std::fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientVerifier")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Returns none: hints would be borrowed for longer than the roots last, and a proxy has only
    /// one certificate to present.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(refused(PeerError::LongChain(intermediates.len())));
        }
        let now = i64::try_from(now.as_secs())
            .ok()
            .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
            .ok_or(Error::FailedToGetCurrentTime)?;
        let trust = self.trust.borrow().clone();
        trust
            .roots
            .verify(
                end_entity,
                intermediates,
                webpki::KeyUsage::client_auth(),
                now,
            )
            .map_err(|e| Error::InvalidCertificate(reason(e)))?;
        identity_of(end_entity, &self.trust_domain).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Maps the error to one that rustls sends as a TLS alert, so that the client learns the reason.
fn reason(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::BadDer => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}
