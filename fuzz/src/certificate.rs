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
    let length = u8::try_from(text.len())
        .ok()
        .filter(|length| *length < 0x80);
    if let Some(length) = length {
        // uniformResourceIdentifier of GeneralName (RFC 5280, 4.2.1.6).
        let name = [&[0x86, length], text.as_bytes()].concat();
        assert!(
            bytes.windows(name.len()).any(|window| window == name),
            "{found} is not in the certificate"
        );
    }
    assert!(identity(&[bytes, &[0]].concat()).is_err());
    for end in [0, 1, bytes.len() / 2] {
        assert!(identity(&bytes[..end]).is_err());
    }
}
