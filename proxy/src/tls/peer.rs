//! The identity that a peer's certificate proves.

use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, Error};
use rustls_pki_types::CertificateDer;
use weft_ir::Identity;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::credentials;

/// Why a certificate does not prove an acceptable identity.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    #[error("the peer presented no certificate")]
    Absent,
    #[error("the peer's certificate is no X.509 certificate")]
    Malformed,
    #[error("the peer's certificate has {0} URI names; exactly one, its SPIFFE id, is allowed")]
    Uris(usize),
    #[error("the peer's certificate names {0:?}, which is no identity of a mesh")]
    NoIdentity(String),
    #[error("the peer is {0}, of another trust domain")]
    TrustDomain(Identity),
    #[error("the peer is {found}, and {expected} was expected")]
    Unexpected { found: Identity, expected: Identity },
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(error))))
    }
}

/// Returns the identity in the leaf of a chain that has been verified (SPIFFE X.509-SVID, section
/// 2: exactly one URI name).
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, PeerError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerError::Absent)?;
    // A certificate ends with its DER value.
    let Ok(([], leaf)) = X509Certificate::from_der(leaf) else {
        return Err(PeerError::Malformed);
    };
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| PeerError::Malformed)?;
    let names = names.map_or(&[][..], |san| &san.value.general_names);
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            GeneralName::Invalid(..) => Some(""),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else {
        return Err(PeerError::Uris(uris.len()));
    };
    uri.parse()
        .map_err(|_| PeerError::NoIdentity(uri.to_owned()))
}

/// Returns how long the leaf of a verified chain is still valid by this node's clock; zero if it
/// has expired or cannot be parsed.
pub fn valid_for(chain: Option<&[CertificateDer<'_>]>) -> Duration {
    let leaf = chain.and_then(<[_]>::first);
    let leaf = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let end = leaf.map_or(0, |(_, leaf)| leaf.validity().not_after.timestamp());
    let left = end.saturating_sub(credentials::unix_now());
    Duration::from_secs(u64::try_from(left).unwrap_or(0))
}
