//! Parses a certificate signing request (PKCS#10) and checks its form, its proof of possession and
//! its names.
//!
//! Returns what is requested; `sign` decides whether the requester may obtain it.

use rcgen::SubjectPublicKeyInfo;
use weft_ir::{Identity, IdentityError};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// The maximum size of a request in bytes: one for a P-256 key has about 300.
pub const MAX_CSR: usize = 8 * 1024;

/// A well-formed request for one identity.
#[derive(Debug)]
pub struct Request {
    pub key: SubjectPublicKeyInfo,
    pub identity: Identity,
}

/// Why a request is rejected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CsrError {
    #[error("the CSR is empty")]
    Empty,
    #[error("the CSR has {0} bytes; the limit is {MAX_CSR}")]
    TooLarge(usize),
    #[error("the CSR is not PKCS#10 in DER: {0}")]
    Malformed(String),
    #[error("{0} bytes follow the CSR")]
    Trailing(usize),
    #[error("the CSR's key is neither ECDSA P-256, ECDSA P-384 nor Ed25519")]
    KeyKind,
    #[error("the CSR is not signed with its own key")]
    Signature,
    #[error("the CSR requests a CA certificate")]
    Authority,
    #[error("the CSR requests the subject {0:?}; leave it empty: the SPIFFE ID is the only name")]
    Subject(String),
    #[error("the CSR has no subject alternative name; it must have one, the SPIFFE ID")]
    NoName,
    #[error("the CSR has {0} subject alternative names; it must have one, the SPIFFE ID")]
    ManyNames(usize),
    #[error("the CSR requests the name {0}, which is not a URI; it must be the SPIFFE ID")]
    NameKind(String),
    #[error("the CSR's name is not an identity of the mesh: {0}")]
    NotIdentity(#[from] IdentityError),
}

impl CsrError {
    /// Returns true if the request is well formed and requests a name that is never issued.
    pub fn is_about_names(&self) -> bool {
        matches!(
            self,
            Self::Authority
                | Self::Subject(_)
                | Self::NoName
                | Self::ManyNames(_)
                | Self::NameKind(_)
                | Self::NotIdentity(_)
        )
    }
}

/// Parses and checks a request.
pub fn parse(der: &[u8]) -> Result<Request, CsrError> {
    match der.len() {
        0 => return Err(CsrError::Empty),
        length if length > MAX_CSR => return Err(CsrError::TooLarge(length)),
        _ => {}
    }
    let (rest, csr) = X509CertificationRequest::from_der(der)
        .map_err(|e| CsrError::Malformed(clip(&e.to_string())))?;
    if !rest.is_empty() {
        return Err(CsrError::Trailing(rest.len()));
    }
    let key = public_key(&csr)?;
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    let identity = requested_identity(&csr)?;
    Ok(Request { key, identity })
}

fn public_key(csr: &X509CertificationRequest<'_>) -> Result<SubjectPublicKeyInfo, CsrError> {
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| CsrError::KeyKind)?;
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    let algorithm = rcgen::PublicKeyData::algorithm(&key);
    if !kinds.contains(&algorithm) {
        return Err(CsrError::KeyKind);
    }
    Ok(key)
}

/// Returns the requested identity, from any of the request's attributes; the subject may be empty
/// or repeat it.
fn requested_identity(csr: &X509CertificationRequest<'_>) -> Result<Identity, CsrError> {
    let extensions = csr
        .certification_request_info
        .iter_attributes()
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(request) => Some(&request.extensions),
            _ => None,
        })
        .flatten();
    let mut names = Vec::new();
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => names.extend(&san.general_names),
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(CsrError::Authority);
            }
            ParsedExtension::ParseError { error } => {
                return Err(CsrError::Malformed(clip(&error.to_string())));
            }
            _ => {}
        }
    }
    let identity: Identity = match names.as_slice() {
        [] => return Err(CsrError::NoName),
        [GeneralName::URI(uri)] => clip(uri).parse()?,
        [other] => return Err(CsrError::NameKind(clip(&other.to_string()))),
        many => return Err(CsrError::ManyNames(many.len())),
    };
    check_subject(csr, &identity)?;
    Ok(identity)
}

fn check_subject(csr: &X509CertificationRequest<'_>, identity: &Identity) -> Result<(), CsrError> {
    let subject = &csr.certification_request_info.subject;
    let mut attributes = subject.iter_attributes();
    let repeats = match (attributes.next(), attributes.next()) {
        (None, _) => true,
        (Some(only), None) => {
            *only.attr_type() == x509_parser::oid_registry::OID_X509_COMMON_NAME
                && only.as_str().is_ok_and(|cn| cn == identity.to_string())
        }
        _ => false,
    };
    if repeats {
        Ok(())
    } else {
        Err(CsrError::Subject(clip(&subject.to_string())))
    }
}

/// Limits text of an untrusted peer to the length of a log line.
fn clip(text: &str) -> String {
    const MAX_CHARS: usize = 700;
    text.chars().take(MAX_CHARS).collect()
}
