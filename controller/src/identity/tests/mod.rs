//! Tests of the identity side that need no cluster, and what they share with the server's.

mod authority;
mod requests;
mod signing;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use time::OffsetDateTime;
use weft_ir::{Identity, TrustDomain};

use super::{RootPem, SecretError, Trust, new_root, read_secret};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

pub(crate) fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new(domain(), namespace, account).unwrap()
}

pub(crate) fn secret(pairs: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
    pairs
        .iter()
        .map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())))
        .collect()
}

pub(crate) fn read(root: &RootPem) -> Result<Trust, SecretError> {
    let data = secret(&[("tls.crt", &root.certificate), ("tls.key", &root.key)]);
    read_secret(&data, now())
}

pub(crate) fn trust() -> Trust {
    read(&new_root(now()).unwrap()).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A request's parameters: no subject, these names.
pub(crate) fn request(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params
}

pub(crate) fn named(params: &mut CertificateParams, name: &str) {
    params.distinguished_name.push(DnType::CommonName, name);
}

pub(crate) fn csr(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}
