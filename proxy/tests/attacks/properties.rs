//! Properties of the parsers of untrusted bytes: none panics, decisions are stable however the
//! bytes are split, and results match a reference implementation where a simple one exists. For the
//! PROXY protocol see `net/proxy_protocol/tests.rs`, for paths `http/path.rs`, for the controller's
//! protocol `weft-api`.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use http::HeaderValue;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustls::pki_types::CertificateDer;
use weft_ir::{ForwardedHeader, ForwardedTrust, Identity};
use weft_proxy::http::forwarded::{self, Connection};
use weft_proxy::net::detect::{
    Detected, alpn_protocols, detect, is_for_forward_proxy, is_server_preface, server_name,
};
use weft_proxy::tls::peer_identity;
use weft_testkit::pki::Pki;

use super::frames::PREFACE;
use super::hello::{Hello, TLS12, TLS13};
use super::support::identity;

/// Bytes with the beginning of a known protocol, or of none.
fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        PREFACE,
        b"PRI * HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n",
        b"CONNECT a:1",
        b"OPTIONS *",
        b"VERSION-CONTROL /",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x16\x03\x05",
        b"SSH-2.0-",
        b"",
    ];
    let known = select(known.to_vec());
    (known, any::<Index>(), vec(any::<u8>(), 0..40)).prop_map(|(known, cut, more)| {
        let part = &known[..cut.index(known.len() + 1)];
        [part, &more].concat()
    })
}

/// Reference implementation of [`detect`].
fn reference(bytes: &[u8]) -> Detected {
    let mut words = bytes.splitn(2, |byte| *byte == b' ');
    let word = words.next().unwrap_or_default();
    let method = |word: &[u8]| {
        (1..=24).contains(&word.len())
            && word
                .iter()
                .all(|byte| byte.is_ascii_uppercase() || b"-_".contains(byte))
    };
    let record =
        |byte: usize, allowed: &[u8]| bytes.get(byte).is_none_or(|byte| allowed.contains(byte));
    let is_tls = record(1, &[3]) && record(2, &[0, 1, 2, 3, 4]) && record(5, &[1]);
    match (bytes, words.next()) {
        ([], _) => Detected::Incomplete,
        ([0x16, ..], _) if !is_tls => Detected::Opaque,
        ([0x16, ..], _) => {
            if bytes.len() > 5 {
                Detected::Tls
            } else {
                Detected::Incomplete
            }
        }
        (bytes, _) if bytes.starts_with(PREFACE) => Detected::Http2,
        (bytes, _) if PREFACE.starts_with(bytes) => Detected::Incomplete,
        (_, None) if method(word) => Detected::Incomplete,
        (_, Some([])) if method(word) => Detected::Incomplete,
        (_, Some([b'/' | b'*' | b'h' | b'H', ..])) if method(word) => Detected::Http1,
        (_, Some(_)) if word == b"CONNECT" => Detected::Http1,
        _ => Detected::Opaque,
    }
}

/// A ClientHello with this ALPN protocol.
fn hello(alpn: &[u8], records: bool) -> Vec<u8> {
    let version = if records { TLS12 } else { TLS13 };
    Hello::of(version, alpn).suites([0x1301, 0xc02b]).records()
}

static LEAF: LazyLock<CertificateDer<'static>> = LazyLock::new(|| {
    let leaf = Pki::new().unwrap().leaf(&identity("reviews"));
    leaf.unwrap().chain.remove(0)
});

/// Reference implementation of the form `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
fn is_identity(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let ["spiffe:", "", domain, "ns", namespace, "sa", account] = parts[..] else {
        return false;
    };
    let of = |text: &str, more: &str, most: usize| {
        let known =
            |c: char| "abcdefghijklmnopqrstuvwxyz0123456789-".contains(c) || more.contains(c);
        !text.is_empty() && text.len() <= most && text.chars().all(known)
    };
    let dotted = !format!(".{account}.").contains("..");
    of(domain, "._", 255) && of(namespace, "", 63) && of(account, ".", 253) && dotted
}

/// Applies a gateway's handling of forwarded headers; returns the client's address and the
/// resulting headers.
fn after(
    names: [&'static str; 2],
    values: [&str; 2],
    trust: &ForwardedTrust,
) -> (IpAddr, http::HeaderMap) {
    let mut request = http::Request::builder()
        .uri("/")
        .header("host", "shop.example");
    for (name, value) in names.into_iter().zip(values) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            request = request.header(name, value);
        }
    }
    let mut head = request.body(()).unwrap().into_parts().0;
    let connection = Connection {
        client: SocketAddr::from(([192, 0, 2, 7], 1)),
        tls: true,
        port: 443,
    };
    let client = forwarded::set(&mut head, connection, trust, || {
        HeaderValue::from_static("id")
    });
    (client, head.headers)
}

proptest! {
    #[test]
    fn detected_protocol_matches_reference(bytes in beginnings()) {
        prop_assert_eq!(detect(&bytes), reference(&bytes), "{:?}", bytes.escape_ascii().to_string());
        let _ = (is_for_forward_proxy(&bytes), is_server_preface(&bytes));
    }

    #[test]
    fn detected_protocol_is_stable_as_bytes_arrive(bytes in beginnings(), cut: Index) {
        let early = detect(&bytes[..cut.index(bytes.len() + 1)]);
        if early != Detected::Incomplete {
            prop_assert_eq!(early, detect(&bytes), "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn client_hello_is_complete_at_its_last_byte(alpn in "[a-z/0-9]{1,40}", old: bool, cut: Index) {
        let bytes = hello(alpn.as_bytes(), old);
        prop_assert_eq!(alpn_protocols(&bytes).unwrap(), Some(vec![alpn.into_bytes()]));
        prop_assert_eq!(server_name(&bytes).unwrap(), Some(None));
        prop_assert_eq!(alpn_protocols(&bytes[..cut.index(bytes.len())]).unwrap(), None);
    }

    #[test]
    fn corrupted_client_hello_does_not_panic(old: bool, places in vec((any::<Index>(), any::<u8>()), 1..6), cut: Index) {
        let mut bytes = hello(b"weft/h2", old);
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1).max(6));
        let _ = (detect(&bytes), alpn_protocols(&bytes), server_name(&bytes));
    }

    #[test]
    fn identity_parser_matches_reference(
        text in "(spiffe://)?[a-zA-Z.:@_0-9]{0,6}(/ns/[a-z.A-Z%0-9-]{0,4})?(/sa/[a-z.A-Z_0-9-]{0,6})?(/[a-z]?)?",
    ) {
        let parsed = text.parse::<Identity>();
        prop_assert_eq!(parsed.is_ok(), is_identity(&text), "{}", text);
        if let Ok(identity) = parsed {
            prop_assert_eq!(identity.to_string(), text);
        }
    }

    #[test]
    fn identity_parser_matches_reference_on_arbitrary_text(text: String) {
        prop_assert_eq!(text.parse::<Identity>().is_ok(), is_identity(&text));
    }

    #[test]
    fn corrupted_certificate_does_not_panic(places in vec((any::<Index>(), any::<u8>()), 1..4), cut: Index) {
        let mut bytes = LEAF.to_vec();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = peer_identity(Some(&[CertificateDer::from(bytes.clone())]));
        bytes.truncate(cut.index(bytes.len()));
        // A truncated certificate is never valid.
        prop_assert!(peer_identity(Some(&[CertificateDer::from(bytes)])).is_err());
    }

    /// Whatever a client sends, applications get valid addresses alone, and a gateway behind this
    /// one that trusts it finds the same client.
    #[test]
    fn written_forwarded_headers_parse_to_same_client(
        values in ["[ -~]{0,40}", "[0-9a-f.:, \";=\\\\\\[\\]for]{0,40}"],
        crossed: bool,
        by_forwarded: bool,
        hops in 0_u32..3,
    ) {
        let names = if crossed { ["forwarded", "x-forwarded-for"] } else { ["x-forwarded-for", "forwarded"] };
        let header = if by_forwarded { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
        let trust = |hops| ForwardedTrust { hops, header, ..ForwardedTrust::default() };
        let (client, headers) = after(names, [&values[0], &values[1]], &trust(hops));
        let list = headers["x-forwarded-for"].to_str().unwrap();
        let addresses: Vec<IpAddr> = list.split(", ").map(|one| one.parse().unwrap()).collect();
        prop_assert_eq!(addresses[0], client);
        let written = headers["forwarded"].to_str().unwrap();
        let hops = u32::try_from(addresses.len()).unwrap();
        let (again, _) = after(names, if crossed { [written, list] } else { [list, written] }, &trust(hops));
        prop_assert_eq!(again, client, "{} | {}", list, written);
    }
}
