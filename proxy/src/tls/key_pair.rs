//! Certificates with keys, as PEM from Secrets.

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weft_ir::KeyPair;

/// The Secret's content is not usable.
#[derive(Debug, thiserror::Error)]
pub enum KeyPairError {
    #[error("the chain is no PEM: {0}")]
    Chain(rustls_pki_types::pem::Error),
    #[error("the chain holds no certificate")]
    Empty,
    #[error("the key is no PEM of PKCS#8, PKCS#1 or SEC1: {0}")]
    Key(rustls_pki_types::pem::Error),
    #[error("certificate and key: {0}")]
    Pair(rustls::Error),
}

/// Parses a pair for use in handshakes.
///
/// # Errors
///
/// If the pair cannot be parsed, or the key does not belong to the certificate.
pub fn certified(provider: &CryptoProvider, pair: &KeyPair) -> Result<CertifiedKey, KeyPairError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pair.chain).collect();
    let chain = chain.map_err(KeyPairError::Chain)?;
    if chain.is_empty() {
        return Err(KeyPairError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(&pair.key).map_err(KeyPairError::Key)?;
    CertifiedKey::from_der(chain, key, provider).map_err(KeyPairError::Pair)
}
