//! Protocol detection from the first bytes of a connection.

use weft_proxy::net::detect::{Detected, detect, is_for_forward_proxy, is_server_preface};

/// RFC 9113, 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No decision needs more bytes.
const LONGEST: usize = 64;

/// The result matches the reference, and does not change as more bytes arrive.
pub fn check(bytes: &[u8]) {
    let detected = detect(bytes);
    assert_eq!(detected, reference(bytes), "{}", bytes.escape_ascii());
    for end in 0..bytes.len().min(LONGEST) {
        let early = detect(&bytes[..end]);
        assert!(
            early == Detected::Incomplete || early == detected,
            "{early:?} after {end} bytes, then {detected:?}: {}",
            bytes.escape_ascii()
        );
    }
    if is_for_forward_proxy(bytes) && detected == Detected::Http1 {
        let target = bytes.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        assert!(
            bytes.starts_with(b"CONNECT ") || !target.starts_with(b"/"),
            "{}",
            bytes.escape_ascii()
        );
    }
    // A server's preface is a SETTINGS frame, which no client begins with.
    assert!(!is_server_preface(bytes) || detected == Detected::Opaque);
}

/// Reference implementation of [`detect`].
pub fn reference(bytes: &[u8]) -> Detected {
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
        ([0x16, ..], _) if bytes.len() > 5 => Detected::Tls,
        ([0x16, ..], _) => Detected::Incomplete,
        (bytes, _) if bytes.starts_with(PREFACE) => Detected::Http2,
        (bytes, _) if PREFACE.starts_with(bytes) => Detected::Incomplete,
        (_, None) if method(word) => Detected::Incomplete,
        (_, Some([])) if method(word) => Detected::Incomplete,
        (_, Some([b'/' | b'*' | b'h' | b'H', ..])) if method(word) => Detected::Http1,
        (_, Some(_)) if word == b"CONNECT" => Detected::Http1,
        _ => Detected::Opaque,
    }
}
