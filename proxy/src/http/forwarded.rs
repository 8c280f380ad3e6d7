//! What a gateway tells backends of the client: its address, and the scheme, host and port that it
//! asked for. Pure.
//!
//! Called once for each request of a gateway, after [`super::headers::clean_request`] (so that no
//! `Connection` header takes away what is set here) and before matching and filters (so that both
//! see what the backend will see, and `X-Forwarded-Host` is the host that the client named). It
//! gives back the client's address, for the access log:
//!
//! ```text
//! let client = forwarded::set(&mut head, connection, &gateway.forwarded, new_request_id);
//! ```
//!
//! Without trusted hops nothing that the client says of itself is believed: it is taken away and
//! set anew. With `n` of them, the right-most `n` entries of the trusted header (`X-Forwarded-For`,
//! or `Forwarded` where that is set) were written by those hops; the left-most of these is the
//! client. What stands further left is the client's own word, and is dropped. Where there are fewer
//! entries, or one of the `n` is no address, or the connection comes from none of the trusted
//! proxies, the request did not come through those hops, and nothing is believed. Of the other
//! `X-Forwarded-*` headers only those of scheme, host and port are believed: what else a client
//! writes, the hops pass on unseen.
//!
//! Source: RFC 7239 (`Forwarded`); the other headers are usage.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use rustls::crypto::{SecureRandom, aws_lc_rs};
use weft_ir::{ForwardedHeader, ForwardedTrust};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// Names a request in every log on its way.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer names of requests are not kept.
const MAX_REQUEST_ID: usize = 128;

/// The connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Who opened it, as the PROXY protocol says where it is spoken.
    pub client: SocketAddr,
    /// Whether the gateway terminated TLS.
    pub tls: bool,
    /// The listener's port.
    pub port: u16,
}

impl Connection {
    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// What one hop says of who asked it.
#[derive(Debug, Default, PartialEq)]
struct Element {
    /// `None`: no address, as `unknown` and names of the hop's own making.
    address: Option<IpAddr>,
    proto: Option<&'static str>,
    host: Option<String>,
}

/// Sets the headers and gives the client's address. `new_id` names the request where no trusted hop
/// did.
pub fn set(
    head: &mut Parts,
    connection: Connection,
    trust: &ForwardedTrust,
    new_id: impl FnOnce() -> HeaderValue,
) -> IpAddr {
    let peer = connection.client.ip().to_canonical();
    let hops = believed_hops(&head.headers, trust, peer);
    let believed = !hops.is_empty();
    let client = hops.first().and_then(|first| first.address).unwrap_or(peer);
    let host = host(head);
    let origin = Origin::of(&head.headers, &hops, connection, host.as_deref());
    let kept = believed.then(|| head.headers.remove(REQUEST_ID)).flatten();
    let had_real_ip = head.headers.contains_key(REAL_IP);
    strip(&mut head.headers);

    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            head.headers.insert(name, value);
        }
    };
    let addresses = hops.iter().filter_map(|hop| hop.address).chain([peer]);
    let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
    put(FOR, &addresses.join(", "));
    put(PROTO, origin.proto);
    put(PORT, &origin.port.to_string());
    if let Some(host) = &origin.host {
        put(FORWARDED_HOST, host);
    }
    let own = Element {
        address: Some(peer),
        proto: Some(connection.scheme()),
        host,
    };
    let elements: Vec<String> = hops.iter().chain([&own]).map(write_element).collect();
    put(FORWARDED, &elements.join(", "));
    if had_real_ip {
        put(REAL_IP, &client.to_string());
    }
    let id = kept.filter(is_request_id).unwrap_or_else(new_id);
    head.headers.insert(REQUEST_ID, id);
    client
}

/// A UUID of version 4. From the generator of the TLS library: whoever has seen some of them can't
/// tell others, so that no client can pass its requests off as another's in logs, which it could
/// with a fast generator.
pub fn new_request_id() -> HeaderValue {
    static RANDOM: LazyLock<&'static dyn SecureRandom> =
        LazyLock::new(|| aws_lc_rs::default_provider().secure_random);
    let mut bytes = [0; 16];
    if RANDOM.fill(&mut bytes).is_err() {
        // The kernel gives no randomness: an ID that might be guessed is better than no response.
        bytes = fastrand::u128(..).to_be_bytes();
    }
    uuid(bytes)
}

/// RFC 9562, 5.4.
fn uuid(random: [u8; 16]) -> HeaderValue {
    let mut bits = u128::from_be_bytes(random);
    bits = (bits & !(0xf << 76)) | (4 << 76);
    bits = (bits & !(0x3 << 62)) | (2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    HeaderValue::from_str(&parts.join("-")).unwrap_or(HeaderValue::from_static("none"))
}

fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// The host that the request names.
fn host(head: &Parts) -> Option<String> {
    let authority = head.uri.authority().map(|a| a.as_str());
    let named = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = authority.or_else(named).filter(|host| !host.is_empty());
    host.map(str::to_owned)
}

/// What the client asked for, at the first trusted hop or here.
struct Origin {
    proto: &'static str,
    host: Option<String>,
    port: u16,
}

impl Origin {
    fn of(
        headers: &HeaderMap,
        hops: &[Element],
        connection: Connection,
        host: Option<&str>,
    ) -> Self {
        let own = |proto| Self {
            proto,
            host: host.map(str::to_owned),
            port: connection.port,
        };
        let Some(first) = hops.first() else {
            return own(connection.scheme());
        };
        let hop_entry = |name| entry(headers, name, hops.len());
        let proto = hop_entry(PROTO).and_then(known_scheme).or(first.proto);
        let port = hop_entry(PORT).and_then(|port| port.parse().ok());
        let host = hop_entry(FORWARDED_HOST).filter(|host| !host.is_empty());
        let host = host.map(str::to_owned).or_else(|| first.host.clone());
        let own = own(proto.unwrap_or(connection.scheme()));
        Self {
            port: port.unwrap_or(match proto {
                Some("https") => 443,
                Some(_) => 80,
                None => connection.port,
            }),
            host: host.or(own.host),
            proto: own.proto,
        }
    }
}

fn known_scheme(text: &str) -> Option<&'static str> {
    let is = |scheme: &&str| text.eq_ignore_ascii_case(scheme);
    ["http", "https"].into_iter().find(is)
}

/// The values of a header that may be given several times, in order. What is no text is an empty
/// one.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap_or_default())
}

/// The entries of such a header, which knows no quotes.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let entries = values(headers, name).flat_map(|text| text.split(','));
    entries.map(str::trim).collect()
}

/// The entry that the first of `hops` hops wrote: hops append, or put one in place of what was
/// there.
fn entry(headers: &HeaderMap, name: HeaderName, hops: usize) -> Option<&str> {
    let entries = entries(headers, &name);
    entries.get(entries.len().saturating_sub(hops)).copied()
}

/// What the trusted hops say, the client's first; empty where nothing is to be believed.
fn believed_hops(headers: &HeaderMap, trust: &ForwardedTrust, peer: IpAddr) -> Vec<Element> {
    let known = |peer: &IpAddr| trust.proxies.iter().any(|network| network.contains(peer));
    if !trust.proxies.is_empty() && !known(&peer) {
        return Vec::new();
    }
    let hops = usize::try_from(trust.hops).unwrap_or(usize::MAX);
    let mut elements: Vec<Element> = if trust.header == ForwardedHeader::XForwardedFor {
        let of = |text| Element {
            address: parse_node(text),
            ..Element::default()
        };
        entries(headers, &FOR).into_iter().map(of).collect()
    } else {
        values(headers, &FORWARDED)
            .flat_map(|text| split(text, b','))
            .map(read_element)
            .collect()
    };
    let Some(first) = elements.len().checked_sub(hops) else {
        return Vec::new();
    };
    let believed = elements.split_off(first);
    if believed.iter().any(|element| element.address.is_none()) {
        return Vec::new();
    }
    believed
}

/// Takes away what clients may have made up. `_` stands for `-` to many applications (CGI's names
/// of headers).
fn strip(headers: &mut HeaderMap) {
    let claims = |name: &&HeaderName| {
        let plain = name.as_str().replace('_', "-");
        let exact = ["forwarded", "x-real-ip", "x-request-id"].contains(&&*plain);
        exact || plain.starts_with("x-forwarded-")
    };
    let names: Vec<HeaderName> = headers.keys().filter(claims).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// An address with or without a port; IPv6 with or without brackets (RFC 7239, 6).
fn parse_node(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>().ok();
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    Some(address.or_else(with_port)?.to_canonical())
}

/// `forwarded-element` (RFC 7239, 4).
fn read_element(text: &str) -> Element {
    let mut element = Element::default();
    for pair in split(text, b';') {
        let Some((name, value)) = pair.trim().split_once('=') else {
            continue;
        };
        let value = unquoted(value);
        match name.to_ascii_lowercase().as_str() {
            "for" => element.address = parse_node(&value),
            "proto" => element.proto = known_scheme(&value),
            "host" => element.host = Some(value).filter(|host| !host.is_empty()),
            _ => {}
        }
    }
    element
}

fn write_element(element: &Element) -> String {
    let mut pairs = Vec::new();
    match element.address {
        Some(IpAddr::V4(address)) => pairs.push(format!("for={address}")),
        Some(IpAddr::V6(address)) => pairs.push(format!("for=\"[{address}]\"")),
        None => pairs.push("for=unknown".to_owned()),
    }
    if let Some(host) = &element.host {
        let escaped = host.replace('\\', "\\\\").replace('"', "\\\"");
        pairs.push(format!("host=\"{escaped}\""));
    }
    pairs.extend(element.proto.map(|proto| format!("proto={proto}")));
    pairs.join(";")
}

/// The parts between separators that are not within quotes. Read from the right: what trusted hops
/// appended is read as they meant it, whatever quotes the client left open.
fn split(text: &str, separator: u8) -> Vec<&str> {
    let bytes = text.as_bytes();
    let escapes = |at: usize| {
        bytes[..at]
            .iter()
            .rev()
            .take_while(|b| **b == b'\\')
            .count()
    };
    let (mut parts, mut end, mut quoted) = (Vec::new(), text.len(), false);
    for at in (0..text.len()).rev() {
        if bytes[at] == b'"' && escapes(at) % 2 == 0 {
            quoted = !quoted;
        } else if bytes[at] == separator && !quoted {
            parts.push(&text[at + 1..end]);
            end = at;
        }
    }
    parts.push(&text[..end]);
    parts.reverse();
    parts
}

/// A token, or what a quoted string says (RFC 9110, 5.6.4).
fn unquoted(text: &str) -> String {
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let Some(inner) = inner else {
        return text.to_owned();
    };
    let mut escaped = false;
    let keep = |c: &char| {
        escaped = *c == '\\' && !escaped;
        !escaped
    };
    inner.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests;
