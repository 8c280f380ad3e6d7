//! Parses and validates the certificates and keys of the root's Secret, which a user or an earlier
//! controller wrote.

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::bundle::Bundle;
use super::load_error::{LoadError, MAX_CERTIFICATES};

/// The validity period of a certificate or a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: OffsetDateTime,
    pub(super) to: OffsetDateTime,
}

/// A complete chain.
pub(super) struct Chain {
    pub(super) signer: CertificateDer<'static>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) root: CertificateDer<'static>,
    pub(super) validity: Validity,
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
        return Err(LoadError::Key("its algorithm is not supported".to_owned()));
    }
    Ok(key)
}

/// Returns the certificates of a PEM text; blocks of other types are skipped.
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

/// Checks that every certificate is a CA certificate, valid at `now` and signed by the next one, up
/// to a self-signed root, and that the key belongs to the first.
pub(super) fn read_chain(
    pem: &[u8],
    key: &KeyPair,
    additional: &Bundle,
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
    let validity = Validity {
        from: parsed.iter().map(|c| from(c)).max().unwrap_or(now),
        to: parsed.iter().map(|c| to(c)).min().unwrap_or(now),
    };
    let (intermediates, root, validity) = if signed_by(last, last) {
        let (root, below) = ders
            .split_last()
            .ok_or(LoadError::NoCertificate { what: WHAT })?;
        (below.to_vec(), root.clone(), validity)
    } else {
        let (root, end) = root_among(additional, last, now)?;
        let to = validity.to.min(end);
        (ders.clone(), root, Validity { to, ..validity })
    };
    let signer = ders
        .into_iter()
        .next()
        .ok_or(LoadError::NoCertificate { what: WHAT })?;
    Ok(Chain {
        signer,
        intermediates,
        root,
        validity,
    })
}

/// Returns the root of `additional` that signed `last`, and when it expires.
fn root_among(
    additional: &Bundle,
    last: &X509Certificate<'_>,
    now: OffsetDateTime,
) -> Result<(CertificateDer<'static>, OffsetDateTime), LoadError> {
    for der in additional.valid_at(now) {
        let root = parse_authority("ca.crt", 1, der)?;
        if signed_by(last, &root) {
            return Ok((der.clone(), to(&root)));
        }
    }
    Err(LoadError::NoRoot)
}

/// Parses a certificate, which must be a CA certificate.
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
        return Err(bad(format!("{} bytes follow the certificate", rest.len())));
    }
    if certificate
        .subject()
        .iter_rdn()
        .any(|rdn| rdn.iter().count() != 1)
    {
        return Err(bad(
            "an RDN of its subject does not have exactly one attribute".to_owned(),
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
