//! Headers that belong to one connection, and the name of the host, from hop to hop. Pure.
//!
//! Source: RFC 9110, 7.6.1 (connection-specific fields) and 7.8 (Upgrade); RFC 9112, 3.2 (Host); RFC 9113, 8.2.2 and
//! 8.3.1 (HTTP/2).

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Version};
use std::net::SocketAddr;

use super::errors::{ERROR, Failure, REFUSED};

/// Bytes of a request's head, counted as HTTP/2 does (RFC 9113, 6.5.2).
pub const MAX_HEAD: usize = 64 << 10;
/// What each header counts besides its name and its value.
const OVERHEAD: usize = 32;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes the connection's own headers off a request that came in. Gives the protocol that the client asks to change to,
/// where it does: its headers stay.
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
    if request.uri.authority().is_some() {
        // The request target names the host, and wins (RFC 9112, 3.2.2; RFC 9113, 8.3.1).
        request.headers.remove(HOST);
    }
    let upgrade = wants_upgrade(request);
    let trailers = request
        .headers
        .get(TE)
        .is_some_and(|te| names(te).any(|name| name.eq_ignore_ascii_case("trailers")));
    let kept = upgrade.then(|| request.headers.remove(UPGRADE)).flatten();
    clean(&mut request.headers);
    request.headers.remove(REFUSED);
    if trailers {
        request
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = kept {
        request.headers.insert(UPGRADE, protocol);
        request
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Ok(upgrade)
}

/// The target counts by what of it can be long.
fn is_too_large(request: &http::request::Parts) -> bool {
    let headers = request.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
    let target = request
        .uri
        .path_and_query()
        .map_or(0, |of| of.as_str().len());
    target + headers.sum::<usize>() > MAX_HEAD
}

/// Takes the connection's own headers off a response. `from_app`: the headers between proxies are not its to set.
pub fn clean_response(headers: &mut HeaderMap, from_app: bool) {
    let upgrade = headers.remove(UPGRADE);
    clean(headers);
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
    }
    headers.remove(REFUSED);
    if from_app {
        headers.remove(ERROR);
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

fn clean(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(names)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .filter(|name| *name != HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

fn wants_upgrade(request: &http::request::Parts) -> bool {
    request.version == Version::HTTP_11
        && request.headers.get(UPGRADE).is_some_and(|protocol| {
            // Prior knowledge is the only way into HTTP/2 here (RFC 9113, 3.1).
            names(protocol).all(|name| !name.eq_ignore_ascii_case("h2c"))
        })
        && request
            .headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(names)
            .any(|name| name.eq_ignore_ascii_case("upgrade"))
}

fn names(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Makes the request one of HTTP/1.1 to an origin server: the host in `Host`. `fallback` names it where the client did not.
pub fn for_http1(request: &mut http::request::Parts, fallback: SocketAddr) -> Result<(), Failure> {
    request.version = Version::HTTP_11;
    if !request.headers.contains_key(HOST) {
        let host = match request.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()),
            None => HeaderValue::try_from(fallback.to_string()),
        };
        let host = host.map_err(|_| Failure::BadRequest("the authority is no host"))?;
        request.headers.insert(HOST, host);
    }
    if request.uri.authority().is_some() {
        let mut parts = std::mem::take(&mut request.uri).into_parts();
        let path = parts.path_and_query.take();
        request.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    Ok(())
}

/// Makes the request one of HTTP/2: the host in `:authority`. `fallback` names it where the client did not.
pub fn for_http2(request: &mut http::request::Parts, fallback: SocketAddr) -> Result<(), Failure> {
    request.version = Version::HTTP_2;
    let named = request.headers.remove(HOST);
    if named.is_none() && request.uri.authority().is_some() && request.uri.scheme().is_some() {
        return Ok(());
    }
    let mut parts = std::mem::take(&mut request.uri).into_parts();
    let authority = match &named {
        Some(host) if !host.is_empty() => Authority::try_from(host.as_bytes()),
        _ => match parts.authority.take() {
            Some(authority) => Ok(authority),
            None => Authority::try_from(fallback.to_string()),
        },
    };
    parts.authority = Some(authority.map_err(|_| Failure::BadRequest("Host is no host"))?);
    parts.scheme = Some(Scheme::HTTP);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    request.uri =
        Uri::from_parts(parts).map_err(|_| Failure::BadRequest("the request target is no URI"))?;
    Ok(())
}

/// After [`for_http2`]: the connection is one of TLS, and the scheme says so (RFC 9113, 8.3.1).
pub fn over_tls(request: &mut http::request::Parts) {
    let mut parts = std::mem::take(&mut request.uri).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    // With an authority and a path, which it has, it is a URI.
    request.uri = Uri::from_parts(parts).unwrap_or_default();
}

#[cfg(test)]
mod tests {
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
    fn what_belongs_to_the_connection_stays_behind() {
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
    fn upgrades_are_kept_but_not_to_http2() {
        let mut parts = request("/", &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(clean_request(&mut parts).unwrap());
        assert_eq!(parts.headers[UPGRADE], "websocket");
        let mut parts = request("/", &[("connection", "Upgrade"), ("upgrade", "h2c")]);
        assert!(!clean_request(&mut parts).unwrap());
        assert!(parts.headers.is_empty());
    }

    #[test]
    fn the_host_goes_both_ways() {
        let mut parts = request("/a?b", &[("host", "shop:80")]);
        for_http2(&mut parts, address()).unwrap();
        assert_eq!(parts.uri.to_string(), "http://shop:80/a?b");
        assert!(parts.headers.is_empty());
        for_http1(&mut parts, address()).unwrap();
        assert_eq!(parts.uri.to_string(), "/a?b");
        assert_eq!(parts.headers[HOST], "shop:80");

        let mut parts = request("*", &[]);
        for_http2(&mut parts, address()).unwrap();
        assert_eq!(parts.uri.authority().unwrap(), "10.0.0.1:80");
        assert_eq!(parts.uri.path(), "*");

        let mut parts = request("http://a/x", &[("host", "b")]);
        clean_request(&mut parts).unwrap();
        for_http1(&mut parts, address()).unwrap();
        assert_eq!(parts.headers[HOST], "a");
    }
}
