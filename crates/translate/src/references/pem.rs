//! Certificates and keys in PEM: whether they can be used. Does not say whether they are still, or already, valid.

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Errors with what is wrong with the chain, the key, or the two together; quotes nothing of them.
pub(crate) fn check_key_pair(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(chain).map_err(|why| format!("tls.crt {why}"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "tls.key holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)".to_owned())?;
    for (place, certificate) in (1..).zip(&chain) {
        check_certificate(certificate)
            .map_err(|why| format!("tls.crt: certificate {place} of {} {why}", chain.len()))?;
    }
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    match pair {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("tls.key is not the key of the first certificate in tls.crt".to_owned())
        }
        Err(error) => Err(format!("tls.key and tls.crt cannot be used: {error}")),
    }
}

/// Errors with what is wrong with a bundle of authorities.
pub(crate) fn check_bundle(pem: &[u8]) -> Result<(), String> {
    let certificates = certificates(pem)?;
    let mut roots = RootCertStore::empty();
    let all = certificates.len();
    for (place, certificate) in (1..).zip(certificates) {
        roots
            .add(certificate)
            .map_err(|error| format!("certificate {place} of {all} cannot be used: {error}"))?;
    }
    Ok(())
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|_| "is no sound PEM".to_owned())?;
    if certificates.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

fn check_certificate(certificate: &CertificateDer<'_>) -> Result<(), String> {
    x509_parser::parse_x509_certificate(certificate)
        .map(drop)
        .map_err(|_| "is no X.509 certificate".to_owned())
}
