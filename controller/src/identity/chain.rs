//! Reads what a user or an earlier controller put into the root's Secret, and says what is wrong with it.
//!
//! Parses and checks certificates and keys; signs nothing.

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::trust::Bundle;

/// More certificates than any honest chain or bundle holds.
pub(super) const MAX_CERTIFICATES: usize = 32;

/// From when to when something is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: OffsetDateTime,
    pub(super) to: OffsetDateTime,
}

/// What is wrong with an authority's certificates or key. `place` counts the certificates of `tls.crt` from 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    #[error("{what} is not PEM: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("{what} holds no certificate: it must have a BEGIN CERTIFICATE block")]
    NoCertificate { what: &'static str },
    #[error("{what} holds more than {MAX_CERTIFICATES} certificates")]
    TooMany { what: &'static str },
    #[error("certificate {place} of {what} cannot be read: {reason}")]
    Certificate {
        what: &'static str,
        place: usize,
        reason: String,
    },
    #[error(
        "certificate {place} of {what} ({subject}) is no authority's: basicConstraints CA:TRUE and, where there is a keyUsage, keyCertSign are needed"
    )]
    NotAuthority {
        what: &'static str,
        place: usize,
        subject: String,
    },
    #[error(
        "certificate {place} of tls.crt ({subject}) is valid from {from} to {to}, not now ({now})"
    )]
    NotValidNow {
        place: usize,
        subject: String,
        from: OffsetDateTime,
        to: OffsetDateTime,
        now: OffsetDateTime,
    },
    #[error(
        "certificate {place} of tls.crt is not signed by the one after it: order them signer first, root last"
    )]
    Order { place: usize },
    #[error("tls.crt does not reach a root: put the self-signed root at its end, or into ca.crt")]
    NoRoot,
    #[error(
        "tls.key cannot be used: {0}; it must be an unencrypted PEM key, ECDSA P-256 or P-384 or RSA of 2048 bits or more"
    )]
    Key(String),
    #[error("tls.key does not belong to the first certificate of tls.crt")]
    KeyMismatch,
    #[error("what this authority signs does not verify: {0}")]
    Unusable(String),
}

/// A chain found whole.
pub(super) struct Chain {
    pub(super) signer: CertificateDer<'static>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) root: CertificateDer<'static>,
    pub(super) window: Window,
}

pub(super) fn read_key(pem: &[u8]) -> Result<KeyPair, LoadError> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| LoadError::Key(e.to_string()))?;
    let key = KeyPair::try_from(&der).map_err(|e| LoadError::Key(e.to_string()))?;
    let known = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_RSA_SHA256,
    ];
    if !known.iter().any(|alg| key.is_compatible(alg)) {
        return Err(LoadError::Key("it is of another kind".to_owned()));
    }
    Ok(key)
}

/// Certificates of a PEM text, blocks of other kinds skipped; none is an empty list.
pub(super) fn read_pem(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let mut found = Vec::new();
    for item in CertificateDer::pem_slice_iter(pem) {
        let certificate = item.map_err(|e| LoadError::Pem {
            what,
            reason: e.to_string(),
        })?;
        if found.len() == MAX_CERTIFICATES {
            return Err(LoadError::TooMany { what });
        }
        found.push(certificate);
    }
    Ok(found)
}

/// Checks that every certificate is an authority's, valid now and signed by the next, up to a self-signed root, and
/// that the key belongs to the first.
pub(super) fn read_chain(
    pem: &[u8],
    key: &KeyPair,
    further: &Bundle,
    now: OffsetDateTime,
) -> Result<Chain, LoadError> {
    const WHAT: &str = "tls.crt";
    let ders = read_pem(WHAT, pem)?;
    let mut parsed = Vec::with_capacity(ders.len());
    for (index, der) in ders.iter().enumerate() {
        let certificate = parse_authority(WHAT, index + 1, der)?;
        check_time(index + 1, &certificate, now)?;
        parsed.push(certificate);
    }
    let (Some(signer), Some(last)) = (parsed.first(), parsed.last()) else {
        return Err(LoadError::NoCertificate { what: WHAT });
    };
    if signer.public_key().raw != key.subject_public_key_info() {
        return Err(LoadError::KeyMismatch);
    }
    for (index, pair) in parsed.windows(2).enumerate() {
        if let [lower, upper] = pair
            && !signed_by(lower, upper)
        {
            return Err(LoadError::Order { place: index + 1 });
        }
    }
    let window = Window {
        from: parsed.iter().map(|c| from(c)).max().unwrap_or(now),
        to: parsed.iter().map(|c| to(c)).min().unwrap_or(now),
    };
    let (intermediates, root, window) = if signed_by(last, last) {
        let (root, below) = ders
            .split_last()
            .ok_or(LoadError::NoCertificate { what: WHAT })?;
        (below.to_vec(), root.clone(), window)
    } else {
        let (root, end) = root_among(further, last, now)?;
        let to = window.to.min(end);
        (ders.clone(), root, Window { to, ..window })
    };
    let signer = ders
        .into_iter()
        .next()
        .ok_or(LoadError::NoCertificate { what: WHAT })?;
    Ok(Chain {
        signer,
        intermediates,
        root,
        window,
    })
}

/// The root of `further` that signed `last`, and when it ends.
fn root_among(
    further: &Bundle,
    last: &X509Certificate<'_>,
    now: OffsetDateTime,
) -> Result<(CertificateDer<'static>, OffsetDateTime), LoadError> {
    for der in further.valid_at(now) {
        let root = parse_authority("ca.crt", 1, der)?;
        if signed_by(last, &root) {
            return Ok((der.clone(), to(&root)));
        }
    }
    Err(LoadError::NoRoot)
}

/// Reads a certificate that must be an authority's.
pub(super) fn parse_authority<'a>(
    what: &'static str,
    place: usize,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, LoadError> {
    let bad = |reason: String| LoadError::Certificate {
        what,
        place,
        reason,
    };
    let (rest, certificate) =
        X509Certificate::from_der(der.as_ref()).map_err(|e| bad(e.to_string()))?;
    if !rest.is_empty() {
        return Err(bad(format!("{} bytes follow it", rest.len())));
    }
    if certificate
        .subject()
        .iter_rdn()
        .any(|rdn| rdn.iter().count() != 1)
    {
        return Err(bad(
            "its subject has a part with no or several attributes".to_owned()
        ));
    }
    let is_ca = certificate
        .basic_constraints()
        .map_err(|e| bad(e.to_string()))?
        .is_some_and(|ext| ext.value.ca);
    let may_sign = certificate
        .key_usage()
        .map_err(|e| bad(e.to_string()))?
        .is_none_or(|ext| ext.value.key_cert_sign());
    if !is_ca || !may_sign {
        return Err(LoadError::NotAuthority {
            what,
            place,
            subject: certificate.subject().to_string(),
        });
    }
    Ok(certificate)
}

fn check_time(
    place: usize,
    certificate: &X509Certificate<'_>,
    now: OffsetDateTime,
) -> Result<(), LoadError> {
    let (from, to) = (from(certificate), to(certificate));
    if now < from || now >= to {
        return Err(LoadError::NotValidNow {
            place,
            subject: certificate.subject().to_string(),
            from,
            to,
            now,
        });
    }
    Ok(())
}

fn from(certificate: &X509Certificate<'_>) -> OffsetDateTime {
    certificate.validity().not_before.to_datetime()
}

pub(super) fn to(certificate: &X509Certificate<'_>) -> OffsetDateTime {
    certificate.validity().not_after.to_datetime()
}

fn signed_by(lower: &X509Certificate<'_>, upper: &X509Certificate<'_>) -> bool {
    lower.issuer().as_raw() == upper.subject().as_raw()
        && lower.verify_signature(Some(upper.public_key())).is_ok()
}
