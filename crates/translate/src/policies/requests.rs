//! Conditions on requests, with their faults.
//!
//! Unlike in routes, every condition counts, also a second one on the same header, and a path that
//! no request can have is a fault: a `DENY` rule with it would deny nothing.

use http::Method;
use weft_ir::{HeaderMatch, PathMatch, Pattern, QueryMatch, RequestMatch, ValueMatch};
use weft_policy::{GrpcMatch, PathMatchType, ValueMatchType};

use crate::conditions::Fault;
use crate::routes::patterns::PatternBudget;

pub(super) fn request_match(
    spec: &weft_policy::RequestMatch,
    at: &str,
    patterns: &mut PatternBudget,
    faults: &mut Vec<Fault>,
) -> RequestMatch {
    let weft_policy::RequestMatch {
        path,
        method,
        headers,
        query_params,
        grpc,
    } = spec;
    let mut condition = RequestMatch::default();
    let mut keep = |fault: Fault| faults.push(fault);
    if let Some(grpc) = grpc {
        if path.is_some() || method.is_some() {
            let why = "cannot be combined with path or method";
            keep(Fault::value(&format!("{at}.grpc"), why));
        }
        match grpc_path(grpc, &format!("{at}.grpc")) {
            Ok(path) => condition.path = Some(path),
            Err(fault) => keep(fault),
        }
    } else if let Some(spec) = path {
        match path_match(spec, &format!("{at}.path"), patterns) {
            Ok(path) => condition.path = Some(path),
            Err(fault) => keep(fault),
        }
    }
    if let Some(text) = method {
        match method_of(text, &format!("{at}.method")) {
            Ok(method) => condition.method = Some(method),
            Err(fault) => keep(fault),
        }
    }
    for (place, spec) in headers.iter().enumerate() {
        let at = format!("{at}.headers[{place}]");
        let name = spec.name.parse().map_err(|_| {
            let why = format_args!("{:?} is not a header name", spec.name);
            Fault::value(&format!("{at}.name"), why)
        });
        match name.and_then(|name| Ok((name, value_match(spec, &at, patterns)?))) {
            Ok((name, value)) => condition.headers.push(HeaderMatch { name, value }),
            Err(fault) => keep(fault),
        }
    }
    for (place, spec) in query_params.iter().enumerate() {
        match value_match(spec, &format!("{at}.queryParams[{place}]"), patterns) {
            Ok(value) => condition.query.push(QueryMatch {
                name: spec.name.clone(),
                value,
            }),
            Err(fault) => keep(fault),
        }
    }
    condition
}

fn method_of(text: &str, at: &str) -> Result<Method, Fault> {
    let upper = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| upper);
    method.ok_or_else(|| {
        let why = format_args!("{text:?} is not a method in upper case, such as GET");
        Fault::value(at, why)
    })
}

fn pattern(text: &str, at: &str, patterns: &mut PatternBudget) -> Result<Pattern, Fault> {
    patterns
        .get(text)
        .map_err(|why| Fault::value(&format!("{at}.value"), why))
}

fn value_match(
    spec: &weft_policy::ValueMatch,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<ValueMatch, Fault> {
    match spec.kind {
        ValueMatchType::Exact => Ok(ValueMatch::Exact(spec.value.clone())),
        ValueMatchType::RegularExpression => {
            pattern(&spec.value, at, patterns).map(ValueMatch::Regex)
        }
    }
}

fn path_match(
    spec: &weft_policy::PathMatch,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<PathMatch, Fault> {
    let literal = || match unreachable_path(&spec.value) {
        None => Ok(spec.value.clone()),
        Some(why) => {
            let why = format_args!("{:?} {why}", spec.value);
            Err(Fault::value(&format!("{at}.value"), why))
        }
    };
    match spec.kind {
        PathMatchType::Exact => literal().map(PathMatch::Exact),
        PathMatchType::PathPrefix => literal().map(PathMatch::Prefix),
        PathMatchType::RegularExpression => {
            pattern(&spec.value, at, patterns).map(PathMatch::Regex)
        }
    }
}

/// Returns why no request has the path: requests are compared in the normal form of their path, and
/// without its query.
fn unreachable_path(path: &str) -> Option<&'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Some("must begin with /");
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => return Some("must not contain //"),
            "." | ".." => return Some("must not contain the segments . and .."),
            _ => {}
        }
    }
    let outside = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#' | b'\\');
    if path.bytes().any(outside) {
        return Some("must not contain spaces, ?, #, \\ and characters outside of ASCII");
    }
    let bytes = path.as_bytes();
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in escapes {
        let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) else {
            return Some("has a % that begins no escape");
        };
        let character = char::from_u32(high * 16 + low).unwrap_or_default();
        if character.is_ascii_alphanumeric() || "-._~".contains(character) {
            return Some("must not escape letters, digits, -, ., _ and ~");
        }
    }
    None
}

fn grpc_path(spec: &GrpcMatch, at: &str) -> Result<PathMatch, Fault> {
    let GrpcMatch { service, method } = spec;
    for (field, text) in [("service", service), ("method", method)] {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        if let Some(text) = text
            && (text.is_empty() || !text.bytes().all(legal))
        {
            let why = format_args!("{text:?} is not made of letters, digits, _ and .");
            return Err(Fault::value(&format!("{at}.{field}"), why));
        }
    }
    match (service, method) {
        (Some(service), Some(method)) => Ok(PathMatch::Exact(format!("/{service}/{method}"))),
        (Some(service), None) => Ok(PathMatch::Prefix(format!("/{service}"))),
        (None, Some(method)) => Ok(PathMatch::GrpcMethod(method.clone())),
        (None, None) => Err(Fault::value(at, "service or method is required")),
    }
}

#[cfg(test)]
mod tests {
    use super::unreachable_path;

    #[test]
    fn only_paths_in_normal_form_are_accepted() {
        for path in [
            "/", "/a", "/a/", "/a/b.c", "/a%2Fb", "/...", "/a;b=1", "/a%20b",
        ] {
            assert_eq!(unreachable_path(path), None, "{path}");
        }
        for path in [
            "", "a", "//", "/a//b", "/a/../b", "/.", "/a/..", "/%61", "/a%2e", "/a?b", "/a#b",
            "/a b", "/%", "/%2", "/%zz", "/é", "/a\\b",
        ] {
            assert!(unreachable_path(path).is_some(), "{path}");
        }
    }
}
