//! How TLS handshakes fail: as metrics count it, and in words.

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
    /// By no root that is trusted.
    Untrusted,
    /// A certificate that is not for this use.
    Usage,
    /// Without the identity that the peer must have.
    Identity,
    /// Not for the name that the application must have.
    Name,
    /// Otherwise not acceptable.
    Certificate,
    /// The peer has shown no certificate.
    NoCertificate,
    /// The listener has no certificate that can be shown.
    NoServerCertificate,
    /// No listener has the name that the client asks for.
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

/// What came of a handshake, for metrics.
pub fn handshake_result<T>(accepted: &io::Result<T>) -> Result<(), HandshakeError> {
    match accepted {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Why a handshake failed, in words. Those of our own checks as they are: rustls prints such an
/// error's fields.
pub fn handshake_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|e| e.downcast_ref()) {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
        _ => error.to_string(),
    }
}
