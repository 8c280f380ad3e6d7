//! The properties of the targets with generated input: bytes that begin like those of a protocol,
//! and valid input with some bytes changed.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustls_pki_types::CertificateDer;
use weft_fuzz::client_hello::{self, Hello};
use weft_fuzz::{certificate, detect, forwarded, identity, matcher, proxy_protocol, translate};
use weft_ir::{Identity, TrustDomain};
use weft_testkit::pki::Pki;

/// Bytes with the beginning of a known protocol, or of none.
fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        detect::PREFACE,
        b"PRI * HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n",
        b"CONNECT a:1",
        b"OPTIONS *",
        b"VERSION-CONTROL /",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x16\x03\x05",
        b"SSH-2.0-",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWN",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        b"",
    ];
    let known = select(known.to_vec());
    (known, any::<Index>(), vec(any::<u8>(), 0..40)).prop_map(|(known, cut, more)| {
        let part = &known[..cut.index(known.len() + 1)];
        [part, &more].concat()
    })
}

/// A ClientHello with at most one application protocol.
fn hellos() -> impl Strategy<Value = Hello> {
    let protocol = vec(any::<u8>(), 1..40);
    (
        prop::option::of("[a-z]{1,20}(\\.[a-z]{1,20}){0,2}"),
        prop::option::of(protocol),
        1_usize..3_000,
        0_u16..5_000,
    )
        .prop_map(|(name, protocol, record, padding)| Hello {
            name,
            protocols: protocol.into_iter().collect(),
            record,
            padding,
        })
}

/// Changes bytes, and cuts off the end.
fn damaged(mut bytes: Vec<u8>, changes: Vec<(Index, u8)>, cut: Option<Index>) -> Vec<u8> {
    for (place, byte) in changes {
        let place = place.index(bytes.len());
        bytes[place] = byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec(any::<(Index, u8)>(), 1..6)
}

static LEAF: LazyLock<CertificateDer<'static>> = LazyLock::new(|| {
    let domain = TrustDomain::new("cluster.local").unwrap();
    let identity = Identity::new(domain, "shop", "reviews").unwrap();
    let leaf = Pki::new().unwrap().leaf(&identity);
    leaf.unwrap().chain.remove(0)
});

proptest! {
    #[test]
    fn detected_protocol_matches_reference_and_is_stable(bytes in beginnings()) {
        detect::check(&bytes);
    }

    #[test]
    fn proxy_protocol_header_matches_reference_and_is_stable(bytes in beginnings()) {
        proxy_protocol::check(&bytes);
    }

    #[test]
    fn client_hello_is_complete_at_its_last_byte(hello in hellos()) {
        client_hello::check_valid(&hello);
    }

    #[test]
    fn damaged_client_hello_matches_reference_and_is_stable(
        hello in hellos(),
        changes in changes(),
        cut: Option<Index>,
    ) {
        client_hello::check(&damaged(hello.records(), changes, cut));
    }

    #[test]
    fn identity_matches_reference(
        text in "(spiffe://)?[a-zA-Z.:@_0-9]{0,6}(/ns/[a-z.A-Z%0-9-]{0,4})?(/sa/[a-z.A-Z_0-9-]{0,6})?(/[a-z]?)?",
        arbitrary: String,
    ) {
        identity::check(text.as_bytes());
        identity::check(arbitrary.as_bytes());
    }

    #[test]
    fn damaged_certificate_has_no_other_identity(changes in changes(), cut: Option<Index>) {
        certificate::check(&damaged(LEAF.to_vec(), changes, cut));
    }

    #[test]
    fn forwarded_headers_lead_to_same_client(
        settings: u8,
        values in vec(("x-forwarded-for|forwarded|x_forwarded_for|host", "[ -~]{0,40}|[0-9a-f.:, \";=\\\\\\[\\]for]{0,40}"), 0..5),
    ) {
        let mut bytes = vec![settings];
        for (name, value) in values {
            bytes.extend(format!("{name}: {value}\n").bytes());
        }
        forwarded::check(&bytes);
    }

    #[test]
    fn route_table_matches_reference(bytes in vec(any::<u8>(), 0..400)) {
        matcher::check(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn changed_objects_translate_to_what_proxies_read(bytes in vec(any::<u8>(), 0..80)) {
        translate::check(&bytes);
    }
}
