//! Parsing of scalar values: durations, header names, patterns, host names.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use serde::de::IgnoredAny;
use weft_ir::{HeaderMatch, HostPattern, Pattern, Percent, QueryMatch, ValueMatch};

use super::patterns::PatternBudget;
use crate::conditions::Fault;
use crate::objects::{HttpHeaderMatch, Lenient};

/// The methods defined by the specification.
pub(super) const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// Parses a GEP-2257 duration: one to four numbers of up to five digits, each with the unit `h`,
/// `m`, `s` or `ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis: u64 = 0;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let value: u64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let (factor, length) = if unit.starts_with("ms") {
            (1, 2)
        } else {
            match unit.bytes().next()? {
                b'h' => (3_600_000, 1),
                b'm' => (60_000, 1),
                b's' => (1000, 1),
                _ => return None,
            }
        };
        millis += value * factor;
        rest = &unit[length..];
        if rest.is_empty() {
            return Some(Duration::from_millis(millis));
        }
    }
    None
}

/// A number of percent, of at least `least`. `at` is the path of the section.
pub(crate) fn percent(number: u32, least: u32, at: &str, field: &str) -> Result<Percent, String> {
    let valid = Percent::new(number).filter(|_| number >= least);
    valid.ok_or_else(|| format!("{at}.{field}: {number} is not from {least} to 100"))
}

pub(super) fn header_name(text: &str, at: &str) -> Result<HeaderName, Fault> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Fault::value(at, format_args!("{text:?} is not a header name")))
}

pub(super) fn header_value(text: &str, at: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text)
        .map_err(|_| Fault::value(at, format_args!("{text:?} is not a valid header value")))
}

pub(super) fn pattern(
    text: &str,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<Pattern, Fault> {
    patterns.get(text).map_err(|why| Fault::value(at, why))
}

/// A host name without port, such as `shop.example.com`.
pub(super) fn hostname<'a>(text: &'a str, at: &str) -> Result<&'a str, Fault> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(legal) {
        return Err(Fault::value(
            at,
            format_args!("{text:?} is not a host name"),
        ));
    }
    Ok(text)
}

/// Returns the conditions that can be read, and the faults of the others. Of several entries for a
/// name the first applies (`HTTPHeaderMatch.name`).
pub(super) fn header_matches(
    entries: &[HttpHeaderMatch],
    at: &str,
    patterns: &mut PatternBudget,
) -> (Vec<HeaderMatch>, Vec<Fault>) {
    let (mut matches, mut faults) = (Vec::<HeaderMatch>::new(), Vec::new());
    for (position, entry) in entries.iter().enumerate() {
        let at = format!("{at}[{position}]");
        let HttpHeaderMatch { kind, name, value } = entry;
        let parsed = header_name(name, &format!("{at}.name"))
            .and_then(|name| Ok((name, value_match(kind.as_deref(), value, &at, patterns)?)));
        match parsed {
            Ok((name, _)) if matches.iter().any(|earlier| earlier.name == name) => {}
            Ok((name, value)) => matches.push(HeaderMatch { name, value }),
            Err(fault) => faults.push(fault),
        }
    }
    (matches, faults)
}

/// Like [`header_matches`], for query parameters.
pub(super) fn query_matches(
    entries: &[HttpHeaderMatch],
    at: &str,
    patterns: &mut PatternBudget,
) -> (Vec<QueryMatch>, Vec<Fault>) {
    let (mut matches, mut faults) = (Vec::<QueryMatch>::new(), Vec::new());
    for (position, entry) in entries.iter().enumerate() {
        let at = format!("{at}[{position}]");
        let HttpHeaderMatch { kind, name, value } = entry;
        match value_match(kind.as_deref(), value, &at, patterns) {
            Ok(_) if matches.iter().any(|earlier| earlier.name == *name) => {}
            Ok(value) => matches.push(QueryMatch {
                name: name.clone(),
                value,
            }),
            Err(fault) => faults.push(fault),
        }
    }
    (matches, faults)
}

fn value_match(
    kind: Option<&str>,
    value: &str,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<ValueMatch, Fault> {
    match kind {
        None | Some("Exact") => Ok(ValueMatch::Exact(value.to_owned())),
        Some("RegularExpression") => {
            pattern(value, &format!("{at}.value"), patterns).map(ValueMatch::Regex)
        }
        Some(other) => Err(unsupported(
            &format!("{at}.type"),
            other,
            "Exact, RegularExpression",
        )),
    }
}

/// Returns the valid host names, and the faults of the others.
pub(super) fn host_patterns(specs: &[Lenient<String>]) -> (Vec<HostPattern>, Vec<Fault>) {
    let (mut patterns, mut faults) = (Vec::with_capacity(specs.len()), Vec::new());
    for (position, spec) in specs.iter().enumerate() {
        let at = format!("hostnames[{position}]");
        let parsed = spec.as_ref().map_err(|why| Fault::value(&at, why));
        let parsed = parsed.and_then(|text| {
            let pattern = text.parse::<HostPattern>();
            pattern.map_err(|error| Fault::value(&at, error))
        });
        match parsed {
            Ok(pattern) => patterns.push(pattern),
            Err(fault) => faults.push(fault),
        }
    }
    (patterns, faults)
}

/// A value that is not one of the supported ones.
pub(super) fn unsupported(at: &str, word: &str, known: &str) -> Fault {
    Fault::value(
        at,
        format_args!("{word:?} is not supported; supported values are {known}"),
    )
}

/// Faults for unknown fields, where ignoring one would match more than intended.
pub(super) fn unknown_fields(
    fields: &BTreeMap<String, IgnoredAny>,
    at: &str,
) -> impl Iterator<Item = Fault> {
    fields
        .keys()
        .map(move |name| Fault::value(&format!("{at}.{name}"), "unknown field"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_gep_2257() {
        for (text, millis) in [
            ("0s", 0),
            ("1h", 3_600_000),
            ("01h", 3_600_000),
            ("1h30m30s500ms", 5_430_500),
            ("1h2h20m10m", 12_600_000),
            ("10ms", 10),
            ("99999h", 99_999 * 3_600_000),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "0",
            "1",
            "s",
            "1d",
            "1.5s",
            "-1s",
            "100000s",
            "1h1h1h1h1h",
            " 1s",
            "1s ",
            "1us",
            "1é",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
