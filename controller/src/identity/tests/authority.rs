//! Roots that are loaded, made and refused, and the certificates that they sign.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    RsaKeySize,
};
use rustls_pki_types::CertificateDer;
use time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::*;
use crate::identity::{Bundle, LoadError};

fn authority_params(name: &str) -> CertificateParams {
    let mut params = request(Vec::new());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = now() - Duration::hours(1);
    params.not_after = now() + Duration::days(100);
    params
}

fn self_signed(params: CertificateParams, key: KeyPair) -> RootPem {
    RootPem {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn problem(pairs: &[(&str, &str)]) -> SecretError {
    read_secret(&secret(pairs), now()).err().expect("refused")
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "a certificate without a subject");
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::URI(uri) => (*uri).to_owned(),
            other => panic!("unexpected name {other}"),
        })
        .collect()
}

#[test]
fn certificate_has_one_name_both_usages_and_the_requested_lifetime() {
    let trust = trust();
    let key = KeyPair::generate().unwrap();
    let at = now();
    let bob = identity("shop", "bob");
    let issued = trust.authority.sign(&key, &bob, DAY, at).unwrap();
    assert_eq!(issued.chain.len(), 1);
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(uris(&leaf), ["spiffe://cluster.local/ns/shop/sa/bob"]);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    assert!(!leaf.is_ca());
    let validity = leaf.validity();
    assert_eq!(validity.not_after.timestamp() - at.unix_timestamp(), 86_400);
    assert_eq!(at.unix_timestamp() - validity.not_before.timestamp(), 60);
    for usage in [
        webpki::KeyUsage::client_auth(),
        webpki::KeyUsage::server_auth(),
    ] {
        trust
            .roots
            .verify(&issued.chain[0], &[], usage, at)
            .unwrap();
    }
}

#[test]
fn certificates_of_one_key_have_different_serials() {
    let trust = trust();
    let key = KeyPair::generate().unwrap();
    let sign = || {
        let issued = trust
            .authority
            .sign(&key, &identity("a", "b"), DAY, now())
            .unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        leaf.raw_serial().to_vec()
    };
    assert_ne!(sign(), sign());
}

#[test]
fn certificates_expire_with_the_root() {
    let mut params = authority_params("short");
    params.not_after = now() + Duration::hours(1);
    let trust = read(&self_signed(params, KeyPair::generate().unwrap())).unwrap();
    let key = KeyPair::generate().unwrap();
    let sign = |at| trust.authority.sign(&key, &identity("a", "b"), DAY, at);
    let issued = sign(now()).unwrap();
    assert_eq!(issued.not_after, trust.authority.not_after());
    assert!(issued.not_after <= now() + Duration::hours(1));
    assert!(sign(now() + Duration::hours(2)).is_err());
}

#[test]
fn extreme_lifetime_is_limited_by_the_root() {
    let trust = trust();
    let key = KeyPair::generate().unwrap();
    let issued = trust
        .authority
        .sign(&key, &identity("a", "b"), std::time::Duration::MAX, now())
        .unwrap();
    assert_eq!(issued.not_after, trust.authority.not_after());
}

#[test]
fn keys_of_p384_and_rsa_may_be_brought() {
    for key in [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ] {
        read(&self_signed(authority_params("brought"), key)).unwrap();
    }
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let refused = read(&self_signed(authority_params("other"), other)).err();
    assert!(matches!(
        refused,
        Some(SecretError::Content(LoadError::Key(_)))
    ));
}

#[test]
fn intermediate_signs_with_its_chain() {
    let root = CertifiedIssuer::self_signed(authority_params("root"), KeyPair::generate().unwrap())
        .unwrap();
    let key = KeyPair::generate().unwrap();
    let middle = authority_params("middle").signed_by(&key, &root).unwrap();
    let key = key.serialize_pem();
    let whole = format!("{}{}", middle.pem(), root.pem());

    let in_chain = secret(&[("tls.crt", &whole), ("tls.key", &key)]);
    let beside = secret(&[
        ("tls.crt", &middle.pem()),
        ("tls.key", &key),
        ("ca.crt", &root.pem()),
    ]);
    for data in [in_chain, beside] {
        let trust = read_secret(&data, now()).unwrap();
        assert_eq!(trust.roots.len(), 1);
        let leaf = KeyPair::generate().unwrap();
        let issued = trust
            .authority
            .sign(&leaf, &identity("a", "b"), DAY, now())
            .unwrap();
        assert_eq!(issued.chain.len(), 2);
        assert_eq!(&issued.chain[1], middle.der());
        trust
            .roots
            .verify(
                &issued.chain[0],
                &issued.chain[1..],
                webpki::KeyUsage::client_auth(),
                now(),
            )
            .unwrap();
    }
    let rootless = problem(&[("tls.crt", &middle.pem()), ("tls.key", &key)]);
    assert_eq!(rootless, SecretError::Content(LoadError::NoRoot));
    let reversed = format!("{}{}{}", middle.pem(), middle.pem(), root.pem());
    let wrong_order = problem(&[("tls.crt", &reversed), ("tls.key", &key)]);
    assert_eq!(
        wrong_order,
        SecretError::Content(LoadError::Order { place: 1 })
    );
}

#[test]
fn unusable_secrets_are_rejected_with_the_reason() {
    let good = new_root(now()).unwrap();
    let other = new_root(now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = request(vec![uri("spiffe://a/ns/b/sa/c")])
        .self_signed(&key)
        .unwrap();
    let mut ended = authority_params("ended");
    ended.not_after = now() - Duration::minutes(1);
    let ended = self_signed(ended, KeyPair::generate().unwrap());

    assert_eq!(
        problem(&[("tls.key", &good.key)]),
        SecretError::Missing("tls.crt")
    );
    assert_eq!(
        problem(&[("tls.crt", &good.certificate), ("tls.key", "")]),
        SecretError::Missing("tls.key")
    );
    let content = |pairs: &[(&str, &str)]| match problem(pairs) {
        SecretError::Content(error) => error,
        other => panic!("{other}"),
    };
    assert!(matches!(
        content(&[("tls.crt", "garbage"), ("tls.key", &good.key)]),
        LoadError::NoCertificate { what: "tls.crt" }
    ));
    assert!(matches!(
        content(&[("tls.crt", &good.certificate), ("tls.key", "garbage")]),
        LoadError::Key(_)
    ));
    assert_eq!(
        content(&[("tls.crt", &good.certificate), ("tls.key", &other.key)]),
        LoadError::KeyMismatch
    );
    assert!(matches!(
        content(&[("tls.crt", &leaf.pem()), ("tls.key", &key.serialize_pem())]),
        LoadError::NotAuthority { place: 1, .. }
    ));
    assert!(matches!(
        content(&[("tls.crt", &ended.certificate), ("tls.key", &ended.key)]),
        LoadError::NotValidNow { place: 1, .. }
    ));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        content(&[("tls.crt", broken), ("tls.key", &good.key)]),
        LoadError::Certificate { place: 1, .. }
    ));
    assert!(matches!(
        content(&[
            ("tls.crt", &good.certificate),
            ("tls.key", &good.key),
            ("ca.crt", &leaf.pem())
        ]),
        LoadError::NotAuthority { what: "ca.crt", .. }
    ));
    let many = good.certificate.repeat(40);
    assert!(matches!(
        content(&[("tls.crt", &many), ("tls.key", &good.key)]),
        LoadError::TooMany { what: "tls.crt" }
    ));
}

#[test]
fn subject_that_would_be_encoded_differently_is_rejected() {
    // Two organisational units: the signer keeps one, and what it signs would name an issuer that
    // does not exist.
    let unit = DnType::OrganizationalUnitName;
    let same_unit = DnType::CustomDnType(vec![2, 5, 4, 11]);
    let mut params = authority_params("units");
    params.distinguished_name.push(unit, "one");
    read(&self_signed(params.clone(), KeyPair::generate().unwrap())).expect("one unit");
    params.distinguished_name.push(same_unit, "two");
    let refused = read(&self_signed(params, KeyPair::generate().unwrap())).err();
    assert!(matches!(
        refused,
        Some(SecretError::Content(LoadError::Unusable(_)))
    ));
}

#[test]
fn previous_root_is_trusted_until_it_expires() {
    let mut params = authority_params("first");
    params.not_after = now() + Duration::hours(1);
    let first = read(&self_signed(params, KeyPair::generate().unwrap())).unwrap();
    let key = KeyPair::generate().unwrap();
    let old = first
        .authority
        .sign(&key, &identity("a", "b"), DAY, now())
        .unwrap();
    let second = trust().succeeding(&first, now()).unwrap();
    let verify = |trust: &Trust, at| {
        let usage = webpki::KeyUsage::client_auth();
        trust.roots.verify(&old.chain[0], &[], usage, at)
    };
    assert_eq!(second.roots.len(), 2);
    verify(&second, now()).unwrap();
    assert!(verify(&second, now() + Duration::hours(2)).is_err());
    // A root that was only listed, and no longer is, goes at once.
    let listed = trust();
    let with = Trust::new(trust().authority, &listed.roots).unwrap();
    let without = trust().succeeding(&with, now()).unwrap();
    let found: Vec<&CertificateDer<'_>> = without.roots.valid_at(now()).collect();
    assert!(!found.contains(&listed.authority.root()));
}

#[test]
fn bundle_round_trips() {
    let (one, two) = (trust(), trust());
    let both = one.roots.clone().union(&two.roots).union(&one.roots);
    let text = both.pem(now());
    let again = Bundle::from_pem("text", text.as_bytes()).unwrap();
    assert_eq!(again.len(), 2);
    assert_eq!(again.pem(now()), text);
    assert_eq!(both.pem(now() + Duration::days(4000)), "");
}
