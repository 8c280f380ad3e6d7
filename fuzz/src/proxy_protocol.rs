//! The header of the PROXY protocol, versions 1 and 2.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use weft_proxy::net::proxy_protocol::{Header, Progress, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The maximum lengths of a line of version 1 and of a header of version 2, in bytes.
const LONGEST: [usize; 2] = [107, 4 << 10];
/// Prefixes that are tried.
const MAX_PREFIXES: usize = 300;

/// The result matches the reference, and does not change as more bytes arrive.
pub fn check(bytes: &[u8]) {
    let parsed = parse(bytes);
    for end in 0..bytes.len().min(MAX_PREFIXES) {
        let early = parse(&bytes[..end]);
        assert!(
            early == Ok(Progress::More) || early == parsed,
            "{early:?} after {end} bytes, then {parsed:?}: {}",
            bytes.escape_ascii()
        );
    }
    if let Ok(Progress::Whole(Header { length, source })) = parsed {
        assert!(length <= bytes.len() && length <= LONGEST[usize::from(bytes[0] == b'\r')]);
        assert_eq!(parse(&bytes[..length - 1]), Ok(Progress::More));
        let expected = match bytes[0] {
            b'\r' => version_2(&bytes[..length]),
            _ => version_1(&bytes[..length]),
        };
        assert_eq!(source, expected, "{}", bytes.escape_ascii());
    }
}

/// Reference implementation for a complete line of version 1. Panics if the line is invalid.
fn version_1(line: &[u8]) -> Option<SocketAddr> {
    let line = line.strip_prefix(b"PROXY ").expect("the name");
    let line = line.strip_suffix(b"\r\n").expect("the end of the line");
    if line.starts_with(b"UNKNOWN") {
        return None;
    }
    let line = std::str::from_utf8(line).expect("ASCII");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words.len(), 5, "{line}");
    let [source, destination] = [words[1], words[2]].map(|text| text.parse::<IpAddr>());
    let (source, destination) = (source.expect("source"), destination.expect("destination"));
    assert_eq!(source.is_ipv4(), words[0] == "TCP4", "{line}");
    assert_eq!(destination.is_ipv4(), words[0] == "TCP4", "{line}");
    for port in &words[3..] {
        // As a number is written, without sign and leading zeros.
        assert_eq!(port.parse::<u16>().expect("a port").to_string(), *port);
    }
    let port = words[3].parse().expect("a port");
    Some(SocketAddr::new(source.to_canonical(), port))
}

/// Reference implementation for a complete header of version 2. Panics if it is invalid.
fn version_2(header: &[u8]) -> Option<SocketAddr> {
    assert!(header.starts_with(SIGNATURE));
    let (fixed, rest) = header.split_at(16);
    assert_eq!(
        rest.len(),
        usize::from(fixed[14]) << 8 | usize::from(fixed[15])
    );
    let port = |high: usize| u16::from(rest[high]) << 8 | u16::from(rest[high + 1]);
    match (fixed[12], fixed[13]) {
        (0x20, _) => None,
        (0x21, 0x11) => {
            let address = [rest[0], rest[1], rest[2], rest[3]];
            Some(SocketAddr::new(IpAddr::from(address), port(8)))
        }
        (0x21, 0x21) => {
            let bits = rest[..16].iter();
            let bits = bits.fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
            let address = IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical();
            Some(SocketAddr::new(address, port(32)))
        }
        (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => None,
        other => panic!("command and family {other:02x?}"),
    }
}
