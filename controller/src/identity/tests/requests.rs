//! CSRs: what is read, and what is refused and why.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, RsaKeySize};

use super::*;
use crate::identity::{CsrError, MAX_CSR, parse_csr};

const BOB: &str = "spiffe://cluster.local/ns/shop/sa/bob";

fn refused(params: &CertificateParams) -> CsrError {
    parse_csr(&csr(params, &KeyPair::generate().unwrap())).unwrap_err()
}

#[test]
fn request_has_the_identity() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = request(vec![uri(BOB)]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let read = parse_csr(&csr(&params, &key)).unwrap();
        assert_eq!(read.identity, identity("shop", "bob"));
    }
}

#[test]
fn subject_may_only_repeat_the_name() {
    let mut params = request(vec![uri(BOB)]);
    named(&mut params, BOB);
    parse_csr(&csr(&params, &KeyPair::generate().unwrap())).unwrap();
    let mut params = request(vec![uri(BOB)]);
    named(&mut params, "alice");
    assert_eq!(refused(&params), CsrError::Subject("CN=alice".to_owned()));
}

#[test]
fn other_names_are_rejected() {
    let dns = SanType::DnsName("alice.shop.svc".try_into().unwrap());
    let ip = SanType::IpAddress([127, 0, 0, 1].into());
    let mail = SanType::Rfc822Name("a@b.c".try_into().unwrap());
    assert_eq!(refused(&request(Vec::new())), CsrError::NoName);
    assert_eq!(
        refused(&request(vec![uri(BOB), uri(BOB)])),
        CsrError::ManyNames(2)
    );
    assert_eq!(
        refused(&request(vec![uri(BOB), dns.clone()])),
        CsrError::ManyNames(2)
    );
    for name in [dns, ip, mail] {
        let error = refused(&request(vec![name]));
        assert!(matches!(error, CsrError::NameKind(_)), "{error}");
    }
    for text in [
        "https://example.com/",
        "spiffe://cluster.local/ns/shop",
        "spiffe://cluster.local/ns/shop/sa/bob/",
    ] {
        let error = refused(&request(vec![uri(text)]));
        assert!(matches!(error, CsrError::NotIdentity(_)), "{error}");
        assert!(error.is_about_names());
    }
}

#[test]
fn ca_request_is_rejected() {
    let mut params = request(vec![uri(BOB)]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(refused(&params), CsrError::Authority);
}

#[test]
fn unsupported_key_is_rejected() {
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let der = csr(&request(vec![uri(BOB)]), &key);
    assert_eq!(parse_csr(&der).unwrap_err(), CsrError::KeyKind);
}

#[test]
fn signature_by_another_key_is_rejected() {
    let key = KeyPair::generate().unwrap();
    let mut der = csr(&request(vec![uri(BOB)]), &key);
    // The last byte is inside the signature's second number.
    *der.last_mut().unwrap() ^= 1;
    assert_eq!(parse_csr(&der).unwrap_err(), CsrError::Signature);
    let mut der = csr(&request(vec![uri(BOB)]), &key);
    let at = der.windows(3).position(|w| w == b"bob").unwrap();
    der[at..at + 3].copy_from_slice(b"eve");
    assert_eq!(parse_csr(&der).unwrap_err(), CsrError::Signature);
}

#[test]
fn invalid_requests_of_any_size_are_rejected() {
    let good = csr(&request(vec![uri(BOB)]), &KeyPair::generate().unwrap());
    assert_eq!(parse_csr(&[]).unwrap_err(), CsrError::Empty);
    assert_eq!(
        parse_csr(&vec![0x30; MAX_CSR + 1]).unwrap_err(),
        CsrError::TooLarge(MAX_CSR + 1)
    );
    let error = parse_csr(b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    assert!(matches!(error, CsrError::Malformed(_)), "{error}");
    let mut long = good.clone();
    long.extend_from_slice(b"more");
    assert_eq!(parse_csr(&long).unwrap_err(), CsrError::Trailing(4));
    for length in 0..good.len() {
        assert!(parse_csr(&good[..length]).is_err(), "{length}");
    }
    // A changed byte may go unseen where it says nothing (the count of unused bits), but never
    // changes what is asked.
    let asked = parse_csr(&good).unwrap();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] = bad[place].wrapping_add(1);
        if let Ok(read) = parse_csr(&bad) {
            assert_eq!(read.identity, asked.identity, "{place}");
            assert_eq!(read.key, asked.key, "{place}");
        }
    }
}
