//! Certificates of the peers: one CA, and one ECDSA P-256 certificate that both proxies of a pair
//! present.

use std::path::Path;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::peers::{text, write};

/// Writes `ca.crt`, `leaf.crt`, `leaf.key` and `leaf.pem` (both) to `<state>/pki`, and returns that
/// folder's absolute path.
pub(super) fn files(state: &Path) -> anyhow::Result<String> {
    let folder = state.join("pki");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let folder = folder.canonicalize()?;

    let mut params = CertificateParams::new(vec![])?;
    // Distinct names: a leaf with its issuer's name would be considered self-signed.
    params
        .distinguished_name
        .push(DnType::CommonName, "bench authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);

    let mut params = CertificateParams::new(vec!["bench".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "bench");
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &issuer)?;

    let (certificate, key) = (leaf.pem(), key.serialize_pem());
    write(&folder.join("ca.crt"), &authority.pem())?;
    write(&folder.join("leaf.crt"), &certificate)?;
    write(&folder.join("leaf.key"), &key)?;
    write(&folder.join("leaf.pem"), &format!("{certificate}{key}"))?;
    Ok(text(&folder)?.to_owned())
}
