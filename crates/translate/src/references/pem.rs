//! Checks of PEM certificates and keys. Validity periods are not checked.

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Returns an error that says what is wrong with the chain, the key, or the combination, without
/// quoting them.
pub(crate) fn check_key_pair(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(chain).map_err(|why| format!("tls.crt {why}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        "tls.key does not contain a PEM private key (PKCS#8, PKCS#1 or SEC1)".to_owned()
    })?;
    for (position, certificate) in (1..).zip(&chain) {
        check_certificate(certificate)
            .map_err(|why| format!("tls.crt: certificate {position} of {} {why}", chain.len()))?;
    }
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    match pair {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("tls.key does not match the first certificate in tls.crt".to_owned())
        }
        Err(error) => Err(format!("tls.key and tls.crt cannot be used: {error}")),
    }
}

/// Returns an error that says what is wrong with a CA bundle.
pub(crate) fn check_bundle(pem: &[u8]) -> Result<(), String> {
    let certificates = certificates(pem)?;
    let mut roots = RootCertStore::empty();
    let all = certificates.len();
    for (position, certificate) in (1..).zip(certificates) {
        roots
            .add(certificate)
            .map_err(|error| format!("certificate {position} of {all} cannot be used: {error}"))?;
    }
    Ok(())
}

/// Returns at least one certificate.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|_| "is not valid PEM".to_owned())?;
    if certificates.is_empty() {
        return Err("contains no PEM certificate".to_owned());
    }
    Ok(certificates)
}

fn check_certificate(certificate: &CertificateDer<'_>) -> Result<(), String> {
    x509_parser::parse_x509_certificate(certificate)
        .map(drop)
        .map_err(|_| "is not a valid X.509 certificate".to_owned())
}
