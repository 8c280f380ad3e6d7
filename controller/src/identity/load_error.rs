//! Why the certificates and the key of a root are rejected: the text is for the user who wrote the
//! Secret.

use time::OffsetDateTime;

use super::ca::SelfCheckError;

/// The maximum number of certificates of a chain or bundle.
pub(super) const MAX_CERTIFICATES: usize = 32;

/// Why an authority's certificates or key are not usable. `place` counts the certificates of a text
/// from 1.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum LoadError {
    #[error("{what} is not PEM: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("{what} has no certificate: it must have a BEGIN CERTIFICATE block")]
    NoCertificate { what: &'static str },
    #[error("{what} has more than {MAX_CERTIFICATES} certificates")]
    TooMany { what: &'static str },
    #[error("certificate {place} of {what} cannot be parsed: {reason}")]
    Certificate {
        what: &'static str,
        place: usize,
        reason: String,
    },
    #[error(
        "certificate {place} of {what} ({subject}) is not a CA certificate: it needs \
         basicConstraints CA:TRUE and, if it has a keyUsage, keyCertSign"
    )]
    NotAuthority {
        what: &'static str,
        place: usize,
        subject: String,
    },
    #[error(
        "certificate {place} of tls.crt ({subject}) is valid from {from} to {to}, but it is {now} \
         now"
    )]
    NotValidNow {
        place: usize,
        subject: String,
        from: OffsetDateTime,
        to: OffsetDateTime,
        now: OffsetDateTime,
    },
    #[error(
        "certificate {place} of tls.crt is not signed by the next one: order them signer first, \
         root last"
    )]
    Order { place: usize },
    #[error(
        "the chain of tls.crt does not end at a root: add the self-signed root at its end, or to \
         ca.crt"
    )]
    NoRoot,
    #[error(
        "tls.key is not usable: {0}; it must be an unencrypted PEM key, ECDSA P-256 or P-384 or \
         RSA of 2048 bits or more"
    )]
    Key(String),
    #[error("tls.key is not the key of the first certificate of tls.crt")]
    KeyMismatch,
    #[error("a certificate signed by this authority does not verify: {0}")]
    Unusable(#[source] SelfCheckError),
}
