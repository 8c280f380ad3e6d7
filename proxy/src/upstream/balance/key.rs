//! What of a request decides on its endpoint, as a number that is the same for all proxies.

use std::net::IpAddr;

use http::HeaderValue;
use http::request::Parts;
use weft_ir::{HashCookie, HashKey, decode_query, query_value};

use super::ring::octets;
use super::xxh64::xxh64;
use crate::cookies::cookie_values;

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub(super) u64);

impl Key {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(xxh64(bytes, 0))
    }

    /// The key of whatever an address sends.
    pub(super) fn of_address(client: IpAddr) -> Self {
        Self::of(&octets(client.to_canonical()))
    }

    /// Returns the key of a request; `None` if it has none, or an empty one. `client` is `None` if
    /// the request is sent for no particular client.
    pub(super) fn of_request(from: &HashKey, head: &Parts, client: Option<IpAddr>) -> Option<Self> {
        match from {
            HashKey::Header(name) => {
                let values = head.headers.get_all(name).iter().map(HeaderValue::as_bytes);
                let values = values.filter(|value| !value.is_empty());
                // Of several values the hash of each is the seed of the next.
                let hash = |seed: Option<u64>, value| Some(xxh64(value, seed.unwrap_or(0)));
                values.fold(None, hash).map(Self)
            }
            HashKey::Cookie(cookie) => {
                let mut values = cookie_values(&head.headers, cookie.name());
                values.find(|value| !value.is_empty()).map(Self::of)
            }
            HashKey::QueryParameter(name) => {
                let value = decode_query(query_value(head.uri.query()?, name)?);
                (!value.is_empty()).then(|| Self::of(value.as_bytes()))
            }
            HashKey::SourceAddress => client.map(Self::of_address),
        }
    }
}

/// A cookie for a client that has none: the key of its value, and the field that sets it.
pub(super) fn new_cookie(of: &HashCookie, value: u64) -> Option<(Key, HeaderValue)> {
    let ttl = of.ttl()?;
    let value = format!("{value:016x}");
    let (name, path) = (of.name(), of.path());
    let age = match ttl.as_secs() {
        0 => String::new(),
        seconds => format!("; Max-Age={seconds}"),
    };
    let field = format!("{name}={value}; Path={path}{age}; HttpOnly; SameSite=Lax");
    let field = HeaderValue::try_from(field).ok()?;
    Some((Key::of(value.as_bytes()), field))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)));

    fn key(from: &HashKey, uri: &str, headers: &[(&str, &str)]) -> Option<Key> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        Key::of_request(from, &head, CLIENT)
    }

    fn cookie(ttl: Option<u64>) -> HashCookie {
        HashCookie::new("session", "/cart", ttl.map(Duration::from_secs)).unwrap()
    }

    #[test]
    fn keys_are_the_values_of_headers_cookies_and_parameters() {
        let header = HashKey::Header(http::HeaderName::from_static("x-user"));
        let (cookie, parameter) = (
            HashKey::Cookie(cookie(None)),
            HashKey::QueryParameter("user id".to_owned()),
        );
        let alice = Some(Key::of(b"alice"));
        for (from, uri, headers, expected) in [
            (&header, "/", &[("x-user", "alice")][..], alice),
            (&header, "/", &[("X-User", ""), ("x-user", "alice")], alice),
            (&header, "/", &[("x-user", "")], None),
            (&header, "/?x-user=alice", &[], None),
            (&cookie, "/", &[("cookie", "a=b; session=alice")], alice),
            (
                &cookie,
                "/",
                &[("cookie", "a=b"), ("cookie", "session=alice")],
                alice,
            ),
            (&cookie, "/", &[("cookie", "session=; session2=a")], None),
            (&parameter, "/?a&user+id=alice&user+id=bob", &[], alice),
            (&parameter, "/?user%20id=%61lice", &[], alice),
            (&parameter, "/?user+id", &[], None),
            (&parameter, "/", &[], None),
        ] {
            assert_eq!(key(from, uri, headers), expected, "{uri} {headers:?}");
        }
        let both = |one, two| key(&header, "/", &[("x-user", one), ("x-user", two)]);
        assert_ne!(both("a", "b"), both("a", "c"));
        assert_ne!(both("a", "b"), both("b", "a"));
    }

    #[test]
    fn source_address_is_the_same_however_it_is_written() {
        let of = |text: &str| Key::of_address(text.parse().unwrap());
        assert_eq!(of("10.0.0.9"), of("::ffff:10.0.0.9"));
        assert_ne!(of("10.0.0.9"), of("10.0.0.8"));
        let source = HashKey::SourceAddress;
        assert_eq!(key(&source, "/", &[]), Some(of("10.0.0.9")));
        let (head, ()) = http::Request::new(()).into_parts();
        assert_eq!(Key::of_request(&source, &head, None), None);
    }

    #[test]
    fn new_cookie_has_the_key_of_its_value() {
        assert_eq!(new_cookie(&cookie(None), 1), None);
        for (ttl, field) in [
            (
                0,
                "session=000000000000000a; Path=/cart; HttpOnly; SameSite=Lax",
            ),
            (
                3600,
                "session=000000000000000a; Path=/cart; Max-Age=3600; HttpOnly; SameSite=Lax",
            ),
        ] {
            let (made, set) = new_cookie(&cookie(Some(ttl)), 10).unwrap();
            assert_eq!(set, field);
            let sent = field.split(';').next().unwrap();
            let from = HashKey::Cookie(cookie(Some(ttl)));
            assert_eq!(key(&from, "/", &[("cookie", sent)]), Some(made));
        }
    }
}
