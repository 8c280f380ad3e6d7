//! Certificates of peers, as DER.

use rustls_pki_types::CertificateDer;
use weft_proxy::tls::{peer_identity, valid_for};

/// A certificate has the identity that one of its names is, and none if it is truncated or if more
/// bytes follow.
pub fn check(bytes: &[u8]) {
    let identity = |bytes: &[u8]| peer_identity(Some(&[CertificateDer::from(bytes.to_vec())]));
    valid_for(Some(&[CertificateDer::from(bytes.to_vec())]));
    let Ok(found) = identity(bytes) else { return };
    let text = found.to_string();
    // uniformResourceIdentifier of GeneralName (RFC 5280, 4.2.1.6). x509-parser also accepts the
    // constructed form, which DER does not allow.
    let is_name = |window: &[u8]| {
        window[0] | 0x20 == 0xa6
            && usize::from(window[1]) == text.len()
            && &window[2..] == text.as_bytes()
    };
    if text.len() < 0x80 {
        assert!(
            bytes.windows(text.len() + 2).any(is_name),
            "{found} is not in the certificate"
        );
    }
    assert!(identity(&[bytes, &[0]].concat()).is_err());
    for end in [0, 1, bytes.len() / 2] {
        assert!(identity(&bytes[..end]).is_err());
    }
}
