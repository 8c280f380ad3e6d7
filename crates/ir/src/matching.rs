//! Whether a request fulfils the conditions of a match, and which of two matches takes precedence.
//!
//! Source: Gateway API v1.7.0, `HTTPRouteRule.matches` and `GRPCRouteRule.matches`. HTTP: an exact
//! path, then the longest prefix, then a method, then the most headers, then the most query
//! parameters. gRPC: the longest service, the longest method, the most headers. Where the
//! specification leaves it open, a regular expression comes after exact paths and before prefixes,
//! the longest text first.

use std::borrow::Cow;

use http::header::{HOST, HeaderMap};
use http::{Method, Uri};

use crate::route::{HeaderMatch, PathMatch, QueryMatch, RequestMatch};

/// The precedence of a match: the greater one is tried first.
pub(crate) type Specificity = (bool, u8, usize, bool, usize, usize);

pub(crate) fn specificity(condition: &RequestMatch) -> Specificity {
    let (kind, length) = match &condition.path {
        Some(PathMatch::Exact(path)) => (4, path.len()),
        Some(PathMatch::Regex(pattern)) => (3, pattern.as_str().len()),
        Some(PathMatch::Prefix(path)) => (2, trim_slash(path).len()),
        Some(PathMatch::GrpcMethod(method)) => (1, method.len()),
        None => (0, 0),
    };
    let method = condition.method.is_some();
    (
        !condition.invalid,
        kind,
        length,
        method,
        condition.headers.len(),
        condition.query.len(),
    )
}

/// Returns true if the request fulfils every condition of the match.
pub(crate) fn matches(
    condition: &RequestMatch,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> bool {
    condition
        .method
        .as_ref()
        .is_none_or(|wanted| wanted == method)
        && condition
            .path
            .as_ref()
            .is_none_or(|wanted| matches_path(wanted, uri.path()))
        && condition
            .headers
            .iter()
            .all(|wanted| matches_header(wanted, uri, headers))
        && (condition.query.is_empty()
            || matches_query(&condition.query, uri.query().unwrap_or_default()))
}

pub(crate) fn matches_path(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => {
            let prefix = trim_slash(prefix);
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => pattern.is_match(path),
        PathMatch::GrpcMethod(method) => grpc_method(path) == Some(method),
    }
}

/// Returns the method of `/service/method`.
fn grpc_method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.contains('/')).then_some(method)
}

pub(crate) fn trim_slash(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Fields of the same name count as one, joined by a comma (RFC 9110, 5.2), or `Cookie` by `; `
/// (RFC 9113, 8.2.3).
pub(crate) fn matches_header(condition: &HeaderMatch, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&condition.name).iter();
    let Some(first) = values.next() else {
        // HTTP/2 has the host in the URI.
        let authority = (condition.name == HOST).then(|| uri.authority()).flatten();
        return authority.is_some_and(|authority| condition.value.matches(authority.as_str()));
    };
    let Ok(first) = std::str::from_utf8(first.as_bytes()) else {
        return false;
    };
    let mut whole = Cow::Borrowed(first);
    let separator = if condition.name == http::header::COOKIE {
        "; "
    } else {
        ","
    };
    for value in values {
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return false;
        };
        let whole = whole.to_mut();
        whole.push_str(separator);
        whole.push_str(value);
    }
    condition.value.matches(&whole)
}

/// Of repeated parameters the first counts.
pub(crate) fn matches_query(conditions: &[QueryMatch], query: &str) -> bool {
    conditions.iter().all(|condition| {
        let value = query_value(query, &condition.name);
        value.is_some_and(|value| condition.value.matches(&decode_query(value)))
    })
}

/// Returns the value of the first parameter with the name, which is decoded; the value is not.
pub fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_query(key) == name).then_some(value)
    })
}

/// Decodes a name or a value of a query (`application/x-www-form-urlencoded`): `+` is a space,
/// `%XX` a byte. Malformed sequences are kept, and so is text that is not UTF-8 when decoded.
pub fn decode_query(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}
