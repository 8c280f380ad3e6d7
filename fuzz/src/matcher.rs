//! The rule that applies to a request.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use arbitrary::{Result, Unstructured};
use http::{HeaderName, HeaderValue, Method, Request};
use weft_ir::{
    HeaderMatch, PathMatch, Pattern, QueryMatch, RequestMatch, RouteId, RouteKind, RouteTable,
    Rule, Timeouts, ValueMatch,
};

const MAX_RULES: usize = 24;
const METHODS: [Method; 3] = [Method::GET, Method::PUT, Method::POST];
/// Few words, so that conditions hold often.
const SEGMENTS: [&str; 6] = ["", "a", "b", "ab", "a%2Fb", "shop.Reviews"];
const VALUES: [&str; 6] = ["", "1", "a", "a b", "1,1", "a=1; b=2"];
const HEADERS: [&str; 5] = ["x-0", "x-1", "cookie", "host", "accept"];
const PARAMETERS: [&str; 4] = ["q", "r", "", "a b"];
const QUERY: &[u8] = b"qr=&=&+%20ab1%zz%4";

/// What a pattern matches.
type Matches = fn(&str) -> bool;

static PATTERNS: LazyLock<Vec<(Pattern, Matches)>> = LazyLock::new(|| {
    let known: [(&str, Matches); 6] = [
        ("/a.*", |text| {
            text.starts_with("/a") && !text.contains('\n')
        }),
        ("a|b", |text| text == "a" || text == "b"),
        ("1*", |text| text.bytes().all(|byte| byte == b'1')),
        ("", str::is_empty),
        ("/[^/]*/?", |text| {
            let segment = text
                .strip_prefix('/')
                .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
            segment.is_some_and(|segment| !segment.contains('/'))
        }),
        ("(?s).*b", |text| text.ends_with('b')),
    ];
    let known = known.into_iter();
    known
        .map(|(text, holds)| (Pattern::new(text).expect("a pattern"), holds))
        .collect()
});

/// The table finds the rule that a walk over all rules finds.
pub fn check(bytes: &[u8]) {
    let _ = compare(&mut Unstructured::new(bytes));
}

/// Errors if the input is too short.
fn compare(input: &mut Unstructured<'_>) -> Result<()> {
    let request = request(input)?;
    let mut rules = Vec::new();
    while rules.len() < MAX_RULES && !input.is_empty() {
        rules.push(rule(input, rules.len())?);
    }
    let table = RouteTable::new(rules.iter().cloned().zip(0..).collect());
    let found = table.find(request.method(), request.uri(), request.headers());
    let found = found.map(|found| (*found.payload, found.path, found.invalid));
    let expected = reference(&rules, &request);
    let expected = expected.map(|(rule, of)| (rule, of.path.as_ref(), of.invalid));
    assert_eq!(found, expected, "{request:?} {rules:#?}");
    Ok(())
}

fn request(input: &mut Unstructured<'_>) -> Result<Request<()>> {
    let mut uri = path(input)?;
    if input.arbitrary()? {
        uri.push('?');
        for _ in 0..input.int_in_range(0..=12)? {
            uri.push(char::from(*input.choose(QUERY)?));
        }
    }
    if input.arbitrary()? {
        uri = format!("http://1{uri}");
    }
    let mut request = Request::builder()
        .method(input.choose(&METHODS)?.clone())
        .uri(uri);
    for _ in 0..input.int_in_range(0..=4)? {
        let value = match input.ratio(1, 16)? {
            true => HeaderValue::from_bytes(b"\xff").expect("opaque bytes"),
            false => HeaderValue::from_static(input.choose(&VALUES)?),
        };
        request = request.header(*input.choose(&HEADERS)?, value);
    }
    Ok(request.body(()).expect("valid parts"))
}

fn path(input: &mut Unstructured<'_>) -> Result<String> {
    let mut path = String::new();
    for _ in 0..input.int_in_range(1..=4)? {
        path.push('/');
        path.push_str(input.choose(&SEGMENTS)?);
    }
    Ok(path)
}

fn rule(input: &mut Unstructured<'_>, index: usize) -> Result<Arc<Rule>> {
    let mut matches = Vec::new();
    for _ in 0..input.int_in_range(1..=3)? {
        matches.push(condition(input)?);
    }
    Ok(Arc::new(Rule {
        route: RouteId {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "route".into(),
        },
        index: u32::try_from(index).unwrap_or_default(),
        name: None,
        matches,
        filters: vec![],
        backends: vec![],
        timeouts: Timeouts::default(),
        retry: None,
        failure: None,
    }))
}

fn condition(input: &mut Unstructured<'_>) -> Result<RequestMatch> {
    let path = match input.int_in_range(0..=5)? {
        0 => None,
        1 => Some(PathMatch::Exact(path(input)?)),
        2 => Some(PathMatch::Regex(input.choose(&PATTERNS)?.0.clone())),
        3 => Some(PathMatch::GrpcMethod(
            (*input.choose(&SEGMENTS[1..])?).to_owned(),
        )),
        4 => Some(PathMatch::Prefix((*input.choose(&SEGMENTS)?).to_owned())),
        _ => Some(PathMatch::Prefix(path(input)?)),
    };
    let mut of = RequestMatch {
        path,
        invalid: input.ratio(1, 8)?,
        ..RequestMatch::default()
    };
    if input.ratio(1, 3)? {
        of.method = Some(input.choose(&METHODS)?.clone());
    }
    for _ in 0..input.int_in_range(0..=2)? {
        of.headers.push(HeaderMatch {
            name: HeaderName::from_static(input.choose(&HEADERS)?),
            value: value(input)?,
        });
    }
    for _ in 0..input.int_in_range(0..=2)? {
        of.query.push(QueryMatch {
            name: (*input.choose(&PARAMETERS)?).to_owned(),
            value: value(input)?,
        });
    }
    Ok(of)
}

fn value(input: &mut Unstructured<'_>) -> Result<ValueMatch> {
    Ok(match input.arbitrary()? {
        true => ValueMatch::Exact((*input.choose(&VALUES)?).to_owned()),
        false => ValueMatch::Regex(input.choose(&PATTERNS)?.0.clone()),
    })
}

/// Reference implementation of [`RouteTable::find`]: tries every match, and keeps the first of the
/// highest precedence.
fn reference<'a>(
    rules: &'a [Arc<Rule>],
    request: &Request<()>,
) -> Option<(usize, &'a RequestMatch)> {
    let mut best: Option<(usize, &RequestMatch)> = None;
    for (index, rule) in rules.iter().enumerate() {
        for of in rule.matches.iter().filter(|of| holds(of, request)) {
            if best.is_none_or(|(_, best)| precedence(of, best) == Ordering::Greater) {
                best = Some((index, of));
            }
        }
    }
    best
}

/// Gateway API v1.7.0, `HTTPRouteRule.matches`. Matches with an invalid condition come last;
/// regular expressions are between exact paths and prefixes.
fn precedence(a: &RequestMatch, b: &RequestMatch) -> Ordering {
    let is = |of: fn(&PathMatch) -> Option<usize>| {
        let length = |of_match: &RequestMatch| of_match.path.as_ref().and_then(of);
        length(a).cmp(&length(b))
    };
    b.invalid
        .cmp(&a.invalid)
        .then_with(|| is(|path| matches!(path, PathMatch::Exact(_)).then_some(0)))
        .then_with(|| is(|path| matches!(path, PathMatch::Regex(_)).then_some(0)))
        .then_with(|| is(|path| matches!(path, PathMatch::Prefix(_)).then_some(0)))
        .then_with(|| {
            is(|path| match path {
                PathMatch::Exact(text) | PathMatch::GrpcMethod(text) => Some(text.len()),
                PathMatch::Regex(pattern) => Some(pattern.as_str().len()),
                PathMatch::Prefix(text) => Some(text.strip_suffix('/').unwrap_or(text).len()),
            })
        })
        .then_with(|| a.method.is_some().cmp(&b.method.is_some()))
        .then_with(|| a.headers.len().cmp(&b.headers.len()))
        .then_with(|| a.query.len().cmp(&b.query.len()))
}

fn holds(of: &RequestMatch, request: &Request<()>) -> bool {
    of.method.iter().all(|method| method == request.method())
        && of
            .path
            .iter()
            .all(|path| path_holds(path, request.uri().path()))
        && of
            .headers
            .iter()
            .all(|header| header_holds(header, request))
        && of
            .query
            .iter()
            .all(|parameter| parameter_holds(parameter, request))
}

fn path_holds(of: &PathMatch, path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    match of {
        PathMatch::Exact(text) => path == text,
        PathMatch::Regex(pattern) => pattern_holds(pattern, path),
        PathMatch::Prefix(prefix) => {
            let prefix: Vec<&str> = prefix
                .strip_suffix('/')
                .unwrap_or(prefix)
                .split('/')
                .collect();
            segments.starts_with(&prefix)
        }
        PathMatch::GrpcMethod(wanted) => match segments[..] {
            ["", service, method] => !service.is_empty() && method == wanted,
            _ => false,
        },
    }
}

fn pattern_holds(pattern: &Pattern, text: &str) -> bool {
    let mut known = PATTERNS.iter();
    let (_, holds) = known
        .find(|(known, _)| known == pattern)
        .expect("a known pattern");
    holds(text)
}

fn value_holds(of: &ValueMatch, text: &str) -> bool {
    match of {
        ValueMatch::Exact(wanted) => text == wanted,
        ValueMatch::Regex(pattern) => pattern_holds(pattern, text),
    }
}

/// RFC 9110, 5.3: lines of one name are one list; crumbs of `Cookie` are joined by `; ` (RFC 9113,
/// 8.2.3).
fn header_holds(of: &HeaderMatch, request: &Request<()>) -> bool {
    let values = request.headers().get_all(&of.name).iter();
    let values: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    let joined = match (of.name.as_str(), &values[..]) {
        ("host", []) => match request.uri().authority() {
            Some(authority) => authority.as_str().as_bytes().to_vec(),
            None => return false,
        },
        (_, []) => return false,
        ("cookie", values) => values.join(&b"; "[..]),
        (_, values) => values.join(&b","[..]),
    };
    std::str::from_utf8(&joined).is_ok_and(|text| value_holds(&of.value, text))
}

/// The first parameter of the name counts.
fn parameter_holds(of: &QueryMatch, request: &Request<()>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let pairs = query.split('&').map(|pair| match pair.find('=') {
        Some(at) => (decoded(&pair[..at]), decoded(&pair[at + 1..])),
        None => (decoded(pair), String::new()),
    });
    let mut values = pairs.filter(|(name, _)| *name == of.name);
    values
        .next()
        .is_some_and(|(_, value)| value_holds(&of.value, &value))
}

/// Decodes `application/x-www-form-urlencoded`. Malformed escapes stay, and so does text that is
/// not UTF-8 when decoded.
fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let mut parts = spaced.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let hex = part
            .get(..2)
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                out.push(b'%');
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
