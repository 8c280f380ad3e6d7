//! The request as an endpoint's protocol needs it: its version, where the host is named, and its
//! framing. Pure.
//!
//! Source: RFC 9112, 3.2 (Host) and 6.3 (the length of a body); RFC 9113, 8.3.1 (the pseudo-header
//! fields).

use std::net::SocketAddr;

use http::Version;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};

use super::SendError;

/// Makes the request one of HTTP/1.1 to an origin server: the host in `Host`. `fallback` names it
/// where the client did not.
pub fn for_http1(
    request: &mut http::request::Parts,
    fallback: SocketAddr,
) -> Result<(), SendError> {
    request.version = Version::HTTP_11;
    if !request.headers.contains_key(HOST) {
        let host = match request.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()),
            None => HeaderValue::try_from(fallback.to_string()),
        };
        let host = host.map_err(|_| SendError::BadRequest("the authority is no host"))?;
        request.headers.insert(HOST, host);
    }
    if request.uri.authority().is_some() {
        let mut parts = std::mem::take(&mut request.uri).into_parts();
        let path = parts.path_and_query.take();
        request.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    Ok(())
}

/// Makes the request one of HTTP/2: the host in `:authority`. `fallback` names it where the client
/// did not.
pub fn for_http2(
    request: &mut http::request::Parts,
    fallback: SocketAddr,
) -> Result<(), SendError> {
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
    parts.authority = Some(authority.map_err(|_| SendError::BadRequest("Host is no host"))?);
    parts.scheme = Some(Scheme::HTTP);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    request.uri = Uri::from_parts(parts)
        .map_err(|_| SendError::BadRequest("the request target is no URI"))?;
    Ok(())
}

/// After [`for_http2`]: the connection is one of TLS, and the scheme says so (RFC 9113, 8.3.1).
pub fn over_tls(request: &mut http::request::Parts) {
    let mut parts = std::mem::take(&mut request.uri).into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    // With an authority and a path, which it has, it is a URI.
    request.uri = Uri::from_parts(parts).unwrap_or_default();
}

/// The request goes on as one that asks for no other protocol, which a server may do with any (RFC
/// 9110, 7.8).
pub fn drop_upgrade(headers: &mut HeaderMap) {
    headers.remove(UPGRADE);
    headers.remove(CONNECTION);
}

/// A body of unknown length goes to HTTP/1.1 in chunks, whatever the method (RFC 9112, 6.3). hyper
/// left to itself sends none with a GET.
pub fn in_chunks(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
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
    fn host_and_authority_are_converted_both_ways() {
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
    }
}
