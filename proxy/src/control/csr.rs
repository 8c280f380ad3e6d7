//! A key, the CSR for it, and credentials from what the controller signed.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_api::proto;
use weft_ir::Identity;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::credentials::{Credentials, Roots, unix_now};
use crate::tls::trusted::Root;
use crate::tls::{PeerError, peer_identity};

/// A new P-256 key that never leaves memory, and the request that goes with it.
pub struct CertificateRequest {
    key: KeyPair,
    pub csr: Vec<u8>,
}

impl CertificateRequest {
    /// The CSR's only name is the identity.
    pub fn new(identity: &Identity) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string();
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, csr })
    }
}

/// What the controller signed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    #[error("the controller's answer has no certificate")]
    Empty,
    #[error("the controller signed something else: {0}")]
    Peer(#[from] PeerError),
    #[error("the controller signed {found}, and this proxy is {expected}")]
    Other { found: Identity, expected: Identity },
    #[error("the controller signed another key: {0}")]
    Key(rustls::Error),
    #[error(
        "the certificate is valid from {not_before} to {not_after} and it is {now} here (Unix seconds): check the \
         clocks of this node and of the controller's"
    )]
    Clock {
        not_before: i64,
        not_after: i64,
        now: i64,
    },
    #[error("the controller's answer has no usable root")]
    NoRoots,
}

/// Checks the answer against the request. With the roots that came along, those of `credentials`
/// are only of these.
pub fn credentials(
    request: &CertificateRequest,
    expected: &Identity,
    response: &proto::SignResponse,
) -> Result<(Credentials, Vec<Root>), SignedError> {
    let chain: Vec<_> = response.chain.iter().map(der).collect();
    let leaf = chain.first().ok_or(SignedError::Empty)?;
    let found = peer_identity(Some(&chain))?;
    if found != *expected {
        let expected = expected.clone();
        return Err(SignedError::Other { found, expected });
    }
    let (not_before, not_after) = validity(leaf)?;
    let now = unix_now();
    if now < not_before || now >= not_after {
        return Err(SignedError::Clock {
            not_before,
            not_after,
            now,
        });
    }
    let signed: Vec<_> = response.roots.iter().map(der).collect();
    let (roots, unusable) = Roots::new(signed.iter());
    if unusable > 0 {
        tracing::warn!(
            unusable,
            "some roots are no usable certificates and are left out"
        );
    }
    if roots.anchors.is_empty() {
        return Err(SignedError::NoRoots);
    }
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(request.key.serialize_der()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(SignedError::Key)?;
    let credentials = Credentials {
        key: Arc::new(key),
        roots: Arc::new(roots),
        root: signed.first().cloned(),
        not_before,
        not_after,
    };
    Ok((credentials, signed))
}

fn der(bytes: &tonic::codegen::Bytes) -> CertificateDer<'static> {
    CertificateDer::from(bytes.to_vec())
}

fn validity(leaf: &CertificateDer<'_>) -> Result<(i64, i64), PeerError> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| PeerError::Malformed)?;
    let validity = leaf.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}
