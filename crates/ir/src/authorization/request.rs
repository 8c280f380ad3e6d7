//! Whether a request meets a condition, where the answer can be that it is not known: applications
//! read some requests differently from each other.

use std::borrow::Cow;

use http::{HeaderMap, Method, Uri};

use crate::matching;
use crate::route::{HeaderMatch, PathMatch, QueryMatch, RequestMatch};

/// Whether a condition is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    Yes,
    No,
    /// It depends on the application.
    Unknown,
}

impl Met {
    fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No => Self::No,
            Self::Yes => other(),
            Self::Unknown => match other() {
                Self::No => Self::No,
                Self::Yes | Self::Unknown => Self::Unknown,
            },
        }
    }

    fn all(conditions: impl Iterator<Item = Self>) -> Self {
        let mut met = Self::Yes;
        for condition in conditions {
            met = met.and(|| condition);
            if met == Self::No {
                return met;
            }
        }
        met
    }

    fn any(conditions: impl Iterator<Item = Self>) -> Self {
        let mut met = Self::No;
        for condition in conditions {
            match condition {
                Self::Yes => return Self::Yes,
                Self::Unknown => met = Self::Unknown,
                Self::No => {}
            }
        }
        met
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }

    fn known(met: bool) -> Self {
        if met { Self::Yes } else { Self::No }
    }
}

/// The headers of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Headers<'a> {
    Known(&'a HeaderMap),
    /// No longer known: a rule with conditions on them matches, or does not, as far as they are
    /// concerned.
    Assumed {
        rule_matches: bool,
    },
}

impl Headers<'_> {
    /// As a condition reads them that must not be met.
    fn negated(self) -> Self {
        match self {
            Self::Known(_) => self,
            Self::Assumed { rule_matches } => Self::Assumed {
                rule_matches: !rule_matches,
            },
        }
    }
}

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: Headers<'a>,
    /// Applications differ in how they read the path.
    pub(super) ambiguous_path: bool,
}

impl<'a> Facts<'a> {
    pub(super) fn new(method: &'a Method, uri: &'a Uri, headers: Headers<'a>) -> Self {
        Self {
            method,
            uri,
            headers,
            ambiguous_path: is_ambiguous(uri.path()),
        }
    }

    /// Whether the request matches one of `wanted` (any if empty) and none of `unwanted`.
    pub(super) fn meets(&self, wanted: &[RequestMatch], unwanted: &[RequestMatch]) -> Met {
        let one = match wanted {
            [] => Met::Yes,
            wanted => Met::any(wanted.iter().map(|condition| self.matches(condition))),
        };
        let negated = Self {
            headers: self.headers.negated(),
            ..*self
        };
        one.and(|| Met::any(unwanted.iter().map(|condition| negated.matches(condition))).not())
    }

    fn matches(&self, condition: &RequestMatch) -> Met {
        let RequestMatch {
            path,
            headers,
            query,
            method,
            invalid,
        } = condition;
        if *invalid {
            return Met::Unknown;
        }
        let method = method.as_ref().is_none_or(|wanted| wanted == self.method);
        let path = || match path {
            None => Met::Yes,
            Some(PathMatch::Prefix(prefix)) if prefix == "/" => Met::Yes,
            Some(_) if self.ambiguous_path => Met::Unknown,
            Some(path) => Met::known(matching::matches_path(path, self.uri.path())),
        };
        let headers = || Met::all(headers.iter().map(|condition| self.header(condition)));
        let query = || Met::all(query.iter().map(|condition| self.parameter(condition)));
        Met::known(method).and(path).and(headers).and(query)
    }

    /// Of repeated fields, some applications read the first, some the last, and some all.
    fn header(&self, condition: &HeaderMatch) -> Met {
        let headers = match self.headers {
            Headers::Known(headers) => headers,
            Headers::Assumed { rule_matches } => return Met::known(rule_matches),
        };
        let mut values = headers.get_all(&condition.name).iter();
        let first = values.next();
        if values.next().is_some() || first.is_some_and(|value| value.to_str().is_err()) {
            return Met::Unknown;
        }
        Met::known(matching::matches_header(condition, self.uri, headers))
    }

    /// As of repeated fields.
    fn parameter(&self, condition: &QueryMatch) -> Met {
        let query = self.uri.query().unwrap_or_default();
        let named = query.split('&').filter(|pair| {
            let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
            matching::decode_query(name) == Cow::Borrowed(condition.name.as_str())
        });
        if named.count() > 1 {
            return Met::Unknown;
        }
        Met::known(matching::matches_query(
            std::slice::from_ref(condition),
            query,
        ))
    }
}

/// Returns true if applications differ in how they read a path that is in its normal form: escaped
/// slashes, backslashes and NUL bytes are decoded by some before they split the path, `;` begins
/// parameters that some cut off, an escaped percent sign is decoded twice by some, and a path that
/// is not in its normal form is resolved by some.
fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return true;
    }
    let mut before = b' ';
    for (at, byte) in bytes.iter().enumerate() {
        let ambiguous = match byte {
            b'%' => matches!(
                bytes.get(at + 1..at + 3),
                None | Some(
                    [b'2', b'f' | b'F' | b'5' | b'e' | b'E']
                        | [b'5', b'c' | b'C']
                        | [b'0', b'0']
                        | [b'3', b'b' | b'B']
                )
            ),
            b';' | b'\\' => true,
            b'/' => before == b'/',
            b'.' => before == b'/' && matches!(rest(bytes, at), b"" | b"."),
            _ => false,
        };
        if ambiguous {
            return true;
        }
        before = *byte;
    }
    false
}

/// The rest of the segment after `at`.
fn rest(path: &[u8], at: usize) -> &[u8] {
    let rest = path.get(at + 1..).unwrap_or_default();
    rest.split(|byte| *byte == b'/').next().unwrap_or_default()
}
