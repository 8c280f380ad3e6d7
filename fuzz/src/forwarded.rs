//! `Forwarded` and `X-Forwarded-*` headers of a gateway's clients.
//!
//! The first byte chooses the settings ([`Settings`]); each line behind it is a header.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_ir::{ForwardedHeader, ForwardedTrust};
use weft_proxy::http::forwarded::{self, Connection};

const PEER: [u8; 4] = [192, 0, 2, 7];

/// Whatever a client sends, applications get valid addresses alone, and a gateway behind this one
/// that trusts it finds the same client.
pub fn check(bytes: &[u8]) {
    let Some((first, lines)) = bytes.split_first() else {
        return;
    };
    let settings = Settings::of(*first);
    let received = headers(lines);
    let (client, headers) = after(&received, settings.trust(settings.hops));
    let addresses = addresses(&headers);
    let elements = only(&headers, "forwarded");
    assert_eq!(addresses[0], client, "{received:?}");
    assert_eq!(addresses.last(), Some(&IpAddr::from(PEER)));
    let believed = addresses.len() - 1;
    assert!(believed == 0 || !settings.elsewhere && believed == settings.hops as usize);
    for name in ["x-forwarded-proto", "x-forwarded-port", "x-request-id"] {
        only(&headers, name);
    }
    assert!(!headers.contains_key("x_forwarded_for"));
    let names = ["x-forwarded-for", "forwarded"];
    // What the next gateway receives.
    for (name, value) in names
        .into_iter()
        .zip([&only(&headers, names[0]), &elements])
    {
        let trust = ForwardedTrust {
            hops: u32::try_from(addresses.len()).unwrap_or(u32::MAX),
            header: match name {
                "forwarded" => ForwardedHeader::Forwarded,
                _ => ForwardedHeader::XForwardedFor,
            },
            ..ForwardedTrust::default()
        };
        let next = HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]);
        assert_eq!(after(&next, trust).0, client, "{name}: {value:?}");
    }
    if believed > 0 {
        // What clients claim stands left of what trusted proxies appended.
        let mut more = HeaderMap::new();
        for (name, claim) in names
            .into_iter()
            .zip(["203.0.113.9", "for=203.0.113.9;a=\"b"])
        {
            more.append(name, HeaderValue::from_static(claim));
            for value in received.get_all(name) {
                more.append(name, value.clone());
            }
        }
        let (again, _) = after(&more, settings.trust(settings.hops));
        assert_eq!(again, client, "{received:?}");
    }
}

/// The settings of a gateway and its connection.
#[derive(Clone, Copy)]
struct Settings {
    hops: u32,
    header: ForwardedHeader,
    /// Whether proxies are only trusted in a network that the peer is not in.
    elsewhere: bool,
}

impl Settings {
    fn of(byte: u8) -> Self {
        Self {
            hops: u32::from(byte & 0b11),
            header: match byte & 0b100 {
                0 => ForwardedHeader::XForwardedFor,
                _ => ForwardedHeader::Forwarded,
            },
            elsewhere: byte & 0b1000 != 0,
        }
    }

    fn trust(self, hops: u32) -> ForwardedTrust {
        let networks = self.elsewhere.then_some("198.51.100.0/24");
        ForwardedTrust {
            hops,
            header: self.header,
            proxies: networks.into_iter().flat_map(str::parse).collect(),
        }
    }
}

/// Reads a header from each line; lines that are none are left out.
fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(16) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Returns the client's address and the headers that the application gets.
fn after(received: &HeaderMap, trust: ForwardedTrust) -> (IpAddr, HeaderMap) {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.headers = received.clone();
    head.headers
        .entry("host")
        .or_insert(HeaderValue::from_static("shop.example"));
    let connection = Connection {
        client: SocketAddr::from((PEER, 1)),
        tls: true,
        port: 443,
    };
    let id = || HeaderValue::from_static("id");
    let client = forwarded::set(&mut head, connection, &trust, id);
    (client, head.headers)
}

fn only(headers: &HeaderMap, name: &str) -> HeaderValue {
    let mut values = headers.get_all(name).iter();
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(values.next().is_none(), "two {name}");
    value.clone()
}

fn addresses(headers: &HeaderMap) -> Vec<IpAddr> {
    let value = only(headers, "x-forwarded-for");
    let list = value.to_str().expect("addresses");
    list.split(", ")
        .map(|one| one.parse().expect("an address"))
        .collect()
}
