//! Headers that belong to one connection, the length of the body, and the name of the host, from
//! hop to hop. Pure.
//!
//! Source: RFC 9110, 7.6.1 (connection-specific fields), 7.8 (Upgrade) and 8.6 (Content-Length);
//! RFC 9112, 3.2 (Host), 6.1 and 6.3 (the length of a body); RFC 9113, 8.1.1, 8.2.2, 8.2.3 and
//! 8.3.1 (HTTP/2).

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, ToStrError, UPGRADE,
};
use http::{Method, Version};

use super::errors::Failure;
use crate::wire::{ERROR, ERROR_TYPE, MAX_HEAD, MAX_REQUEST_FIELDS, OVERHEAD, REFUSED};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes the connection's own headers off a request that came in. Gives the protocol that the
/// client asks to change to, where it does: its headers stay.
pub fn clean_request(request: &mut http::request::Parts) -> Result<bool, Failure> {
    if is_too_large(request) {
        return Err(Failure::TooLarge);
    }
    if request.method == Method::CONNECT {
        return Err(Failure::NotProxied("CONNECT"));
    }
    if request.headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Failure::BadRequest("more than one Host header"));
    }
    if request.headers.contains_key(TRANSFER_ENCODING) {
        match coding(&request.headers) {
            Coding::Chunked => {}
            Coding::Unknown => return Err(Failure::NotProxied("a transfer coding but chunked")),
            Coding::Malformed => return Err(Failure::BadRequest("Transfer-Encoding")),
        }
    }
    one_length(&mut request.headers).map_err(|Ambiguous| Failure::BadRequest("Content-Length"))?;
    if request.uri.authority().is_some() {
        // The request target names the host, and wins (RFC 9112, 3.2.2; RFC 9113, 8.3.1).
        request.headers.remove(HOST);
    }
    let upgrade = wants_upgrade(request)?;
    let trailers = request
        .headers
        .get(TE)
        .and_then(|te| names(te).ok())
        .is_some_and(|mut te| te.any(|name| name.eq_ignore_ascii_case("trailers")));
    clean(&mut request.headers).map_err(|NoText(name)| Failure::BadRequest(name))?;
    if !upgrade {
        request.headers.remove(UPGRADE);
    }
    request.headers.remove(REFUSED);
    if trailers {
        request
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrade {
        let value = HeaderValue::from_static("upgrade");
        request.headers.insert(CONNECTION, value);
    }
    Ok(upgrade)
}

/// The target counts by what of it can be long.
pub(super) fn is_too_large(request: &http::request::Parts) -> bool {
    if request.headers.len() > MAX_REQUEST_FIELDS {
        return true;
    }
    let headers = request.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
    let target = request
        .uri
        .path_and_query()
        .map_or(0, |of| of.as_str().len());
    target + headers.sum::<usize>() > MAX_HEAD
}

/// Takes the connection's own headers off a response. `from_app`: the headers between proxies are
/// not its to set. Errors, which name a field, where it can be read in more than one way.
pub fn clean_response(headers: &mut HeaderMap, from_app: bool) -> Result<(), &'static str> {
    if headers.contains_key(TRANSFER_ENCODING) {
        if coding(headers) != Coding::Chunked {
            return Err("Transfer-Encoding");
        }
        // The chunks say where the body ends, and a length beside them nothing (RFC 9112, 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    one_length(headers).map_err(|Ambiguous| "Content-Length")?;
    clean(headers).map_err(|NoText(name)| name)?;
    headers.remove(REFUSED);
    if from_app {
        headers.remove(ERROR);
        headers.remove(ERROR_TYPE);
    }
    Ok(())
}

/// What `Transfer-Encoding` says, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// Once, and nothing else: what is undone here.
    Chunked,
    /// Codings that are not undone here, then `chunked`.
    Unknown,
    Malformed,
}

fn coding(headers: &HeaderMap) -> Coding {
    let mut coding = Coding::Malformed;
    let mut chunked = false;
    for value in headers.get_all(TRANSFER_ENCODING) {
        let Ok(names) = names(value) else {
            return Coding::Malformed;
        };
        for name in names {
            // It is the last, and applied once (RFC 9112, 7).
            if chunked {
                return Coding::Malformed;
            }
            chunked = name.eq_ignore_ascii_case("chunked");
            coding = match (chunked, coding) {
                (true, Coding::Malformed) => Coding::Chunked,
                _ => Coding::Unknown,
            };
        }
    }
    if chunked { coding } else { Coding::Malformed }
}

/// The message declares conflicting body lengths.
struct Ambiguous;

/// Equal lengths become one (RFC 9110, 8.6).
fn one_length(headers: &mut HeaderMap) -> Result<(), Ambiguous> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return Ok(());
    };
    if lengths.next().is_none() && is_length(first.as_bytes()) {
        return Ok(());
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut lengths = lengths.flat_map(|of| of.as_bytes().split(|b| *b == b','));
    let first = lengths.next().unwrap_or_default().trim_ascii();
    if !is_length(first) || lengths.any(|length| length.trim_ascii() != first) {
        return Err(Ambiguous);
    }
    let one = HeaderValue::from_bytes(first).map_err(|_| Ambiguous)?;
    headers.insert(CONTENT_LENGTH, one);
    Ok(())
}

fn is_length(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// The request goes on in this version.
pub fn set_version(request: &mut http::request::Parts, version: Version) {
    if request.version == Version::HTTP_2 && version != Version::HTTP_2 {
        join_cookies(&mut request.headers);
    }
    request.version = version;
}

/// HTTP/2 may split cookies into fields, which are one again elsewhere (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies = headers.get_all(COOKIE).iter();
    // An empty one at the end would leave a blank there, which HTTP/2 takes for malformed (RFC
    // 9113, 8.2.1).
    let cookies = cookies.map(HeaderValue::as_bytes);
    let cookies: Vec<_> = cookies.filter(|cookie| !cookie.is_empty()).collect();
    if let Ok(one) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(COOKIE, one);
    }
}

/// After [`clean_response`]: keeps `Upgrade` only where the connection does change.
pub fn finish_upgrade(headers: &mut HeaderMap, switching: bool) {
    if switching {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// A field that names things and is no text: what it names cannot be known.
struct NoText(&'static str);

/// Takes off everything but `Upgrade`.
fn clean(headers: &mut HeaderMap) -> Result<(), NoText> {
    if headers.contains_key(CONNECTION) {
        let mut named = Vec::new();
        for value in headers.get_all(CONNECTION) {
            let names = names(value).map_err(|_| NoText("Connection"))?;
            let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            named.extend(names.filter(|name| ![HOST, UPGRADE].contains(name)));
        }
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        TE,
        TRANSFER_ENCODING,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    Ok(())
}

fn wants_upgrade(request: &http::request::Parts) -> Result<bool, Failure> {
    if request.version != Version::HTTP_11 || !request.headers.contains_key(UPGRADE) {
        return Ok(false);
    }
    for value in request.headers.get_all(UPGRADE) {
        let mut names = names(value).map_err(|_| Failure::BadRequest("Upgrade"))?;
        // Prior knowledge is the only way into HTTP/2 here (RFC 9113, 3.1).
        if names.any(|name| name.eq_ignore_ascii_case("h2c")) {
            return Ok(false);
        }
    }
    let connection = request.headers.get_all(CONNECTION).iter();
    let mut connection = connection.filter_map(|value| names(value).ok()).flatten();
    Ok(connection.any(|name| name.eq_ignore_ascii_case("upgrade")))
}

fn names(value: &HeaderValue) -> Result<impl Iterator<Item = &str>, ToStrError> {
    let names = value.to_str()?.split(',').map(str::trim);
    Ok(names.filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 80))
    }

    fn request(uri: &str, headers: &[(&'static str, &str)]) -> http::request::Parts {
        let mut builder = http::Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hop_by_hop_request_headers_are_removed() {
        let mut parts = request(
            "/",
            &[
                ("connection", "x-secret, keep-alive"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "trailers, gzip"),
                ("transfer-encoding", "chunked"),
                ("weft-refused", "1"),
                ("x-kept", "1"),
                ("host", "shop"),
            ],
        );
        assert!(!clean_request(&mut parts).unwrap());
        let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "te", "x-kept"]);
        assert_eq!(parts.headers[TE], "trailers");
    }

    #[test]
    fn upgrade_header_is_kept_unless_h2c() {
        let mut parts = request("/", &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(clean_request(&mut parts).unwrap());
        assert_eq!(parts.headers[UPGRADE], "websocket");
        let mut parts = request("/", &[("connection", "Upgrade"), ("upgrade", "h2c")]);
        assert!(!clean_request(&mut parts).unwrap());
        assert!(parts.headers.is_empty());
    }

    #[test]
    fn connection_header_that_is_not_ascii_is_refused() {
        let value = HeaderValue::from_bytes(b"h2c, \xff").unwrap();
        for name in [CONNECTION, UPGRADE] {
            let mut parts = request("/", &[("x-a", "1")]);
            parts.headers.insert(name, value.clone());
            assert!(clean_request(&mut parts).is_err());
        }
        let mut answer = HeaderMap::new();
        answer.insert(CONNECTION, value);
        assert_eq!(clean_response(&mut answer, true), Err("Connection"));
    }

    #[test]
    fn repeated_content_length_is_merged_or_refused() {
        for (lengths, one) in [
            (&["5"][..], Some("5")),
            (&["5", "5"], Some("5")),
            (&["5, 5", "5"], Some("5")),
            (&["5", "6"], None),
            (&["5,6"], None),
            (&["+5"], None),
            (&["5", ""], None),
            (&[""], None),
        ] {
            let mut headers = HeaderMap::new();
            for length in lengths {
                headers.append(CONTENT_LENGTH, length.parse().unwrap());
            }
            let cleaned = clean_response(&mut headers, true).ok();
            assert_eq!(cleaned.is_some(), one.is_some(), "{lengths:?}");
            if let Some(one) = one {
                let lengths_after: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
                assert_eq!(lengths_after, [one], "{lengths:?}");
            }
        }
    }

    #[test]
    fn only_chunked_coding_is_supported() {
        for (codings, coded) in [
            (&["chunked"][..], Coding::Chunked),
            (&["Chunked"], Coding::Chunked),
            (&["gzip, chunked"], Coding::Unknown),
            (&["gzip", "chunked"], Coding::Unknown),
            (&["identity, chunked"], Coding::Unknown),
            (&["gzip"], Coding::Malformed),
            (&["chunked, chunked"], Coding::Malformed),
            (&["chunked", "chunked"], Coding::Malformed),
            (&["chunked, gzip"], Coding::Malformed),
            (&[""], Coding::Malformed),
        ] {
            let mut headers = HeaderMap::new();
            for value in codings {
                headers.append(TRANSFER_ENCODING, value.parse().unwrap());
            }
            assert_eq!(coding(&headers), coded, "{codings:?}");
        }
    }

    #[test]
    fn http2_cookies_are_joined_for_http1() {
        for (from, to, one) in [
            (Version::HTTP_2, Version::HTTP_11, true),
            (Version::HTTP_2, Version::HTTP_2, false),
            (Version::HTTP_11, Version::HTTP_11, false),
        ] {
            let mut parts = request("/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "")]);
            parts.version = from;
            set_version(&mut parts, to);
            let cookies: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
            let expected: &[&str] = if one {
                &["a=1; b=2"]
            } else {
                &["a=1", "b=2", ""]
            };
            assert_eq!(cookies, expected, "{from:?} {to:?}");
        }
    }

    #[test]
    fn absolute_target_overrides_host_header() {
        let mut parts = request("http://a/x", &[("host", "b")]);
        clean_request(&mut parts).unwrap();
        crate::upstream::target::for_http1(&mut parts, address()).unwrap();
        assert_eq!(parts.headers[HOST], "a");
    }
}
