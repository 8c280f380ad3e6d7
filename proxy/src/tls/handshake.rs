//! Failures of TLS handshakes: the label for metrics, and the message.

use std::io;

use rustls::{CertificateError, Error};

use super::backend::NameError;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    Timeout,
    /// The peer closed the connection.
    Closed,
    Expired,
    NotYetValid,
    /// Not signed by a trusted root.
    Untrusted,
    /// The certificate's extended key usage does not allow this use.
    Usage,
    /// The certificate does not have the required identity.
    Identity,
    /// The certificate does not have the name required of the application.
    Name,
    /// The certificate is invalid for another reason.
    Certificate,
    /// The peer presented no certificate.
    NoCertificate,
    /// The listener has no usable certificate.
    NoServerCertificate,
    /// No listener has the requested server name.
    UnknownName,
    RefusedByPeer,
    /// No version, cipher suite or protocol in common.
    Incompatible,
    Protocol,
}

impl HandshakeError {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Untrusted => "untrusted",
            Self::Usage => "usage",
            Self::Identity => "identity",
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::NoCertificate => "no_certificate",
            Self::NoServerCertificate => "no_server_certificate",
            Self::UnknownName => "unknown_name",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Incompatible => "incompatible",
            Self::Protocol => "protocol",
        }
    }
}

impl From<&io::Error> for HandshakeError {
    fn from(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
            return Self::Closed;
        };
        match error {
            Error::InvalidCertificate(error) => Self::from(error),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::AlertReceived(_) => Self::RefusedByPeer,
            Error::PeerIncompatible(_) => Self::Incompatible,
            _ => Self::Protocol,
        }
    }
}

impl From<&CertificateError> for HandshakeError {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::ExpiredContext { .. } | CertificateError::Expired => Self::Expired,
            CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::Untrusted,
            CertificateError::InvalidPurpose => Self::Usage,
            CertificateError::Other(other) if other.0.is::<NameError>() => Self::Name,
            CertificateError::Other(_) => Self::Identity,
            _ => Self::Certificate,
        }
    }
}

/// Returns the result of a handshake for metrics.
pub fn handshake_result<T>(accepted: &io::Result<T>) -> Result<(), HandshakeError> {
    match accepted {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns why a handshake failed. For errors of Weft's own verifiers this is their message:
/// rustls would print the fields of the error.
pub fn handshake_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|e| e.downcast_ref()) {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
        _ => error.to_string(),
    }
}
