//! Host names with wildcards, and lookup by the most specific match.
//!
//! Source: Gateway API v1.6.3, `Listener.hostname` and `HTTPRouteSpec.hostnames`: an exact name
//! takes precedence over a wildcard, a longer wildcard over a shorter one, and any of them over
//! none.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// A host name or a wildcard, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host.
    Exact(String),
    /// `*.example.com`, as `.example.com`: matches `a.example.com` and `a.b.example.com`, not
    /// `example.com`.
    Below(String),
}

/// The text is neither a host name nor a wildcard.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither a host name nor one after `*.`")]
pub struct HostPatternError(String);

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let (wildcard, host) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, &*lower),
        };
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        if is_address || host.len() > 253 || !host.split('.').all(is_label) {
            return Err(HostPatternError(text.to_owned()));
        }
        Ok(if wildcard {
            Self::Below(format!(".{host}"))
        } else {
            Self::Exact(lower)
        })
    }
}

/// RFC 1123, 2.1, and `_`, which names in clusters can have.
fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let edge = |b: Option<u8>| b.is_some_and(|b| b != b'-');
    label.len() <= 63
        && label.bytes().all(inner)
        && edge(label.bytes().next())
        && edge(label.bytes().last())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl HostPattern {
    /// Returns how well the pattern matches `name`, which is in lower case: exact before wildcard,
    /// longer before shorter.
    pub(crate) fn fit(&self, name: &str) -> Option<(bool, usize)> {
        match self {
            Self::Exact(host) => (host == name).then_some((true, host.len())),
            Self::Below(suffix) => {
                let below = name.len() > suffix.len() && name.ends_with(&**suffix);
                below.then_some((false, suffix.len()))
            }
        }
    }
}

/// Values by host pattern. The time of a lookup only depends on the host.
#[derive(Clone, Debug)]
pub struct HostMap<T> {
    exact: HashMap<String, T>,
    /// By the part after `*`, with its dot.
    below: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
            any: None,
        }
    }
}

impl<T> HostMap<T> {
    /// Sets the value of a pattern and returns its previous value. `None` matches any host, and a
    /// missing one.
    pub fn insert(&mut self, pattern: Option<HostPattern>, value: T) -> Option<T> {
        match pattern {
            Some(HostPattern::Exact(host)) => self.exact.insert(host, value),
            Some(HostPattern::Below(suffix)) => self.below.insert(suffix, value),
            None => self.any.replace(value),
        }
    }

    /// Returns the values whose patterns match `host`, the most specific first. `host` is in lower
    /// case, without port and final dot; `None` if the client sent none.
    pub fn fitting<'a>(&'a self, host: Option<&str>) -> impl Iterator<Item = &'a T> {
        let exact = host.and_then(|host| self.exact.get(host));
        let dots = host.filter(|_| !self.below.is_empty());
        let below = dots.into_iter().flat_map(move |host| {
            let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
            dots.filter_map(|(at, _)| self.below.get(&host[at..]))
        });
        exact.into_iter().chain(below).chain(&self.any)
    }

    /// Returns all values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact
            .values()
            .chain(self.below.values())
            .chain(&self.any)
    }

    /// Returns true if there is no value.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.is_none()
    }
}

/// Strips port and final dot from a host in `Host`, `:authority` or a ClientHello, as
/// [`HostMap::fitting`] expects it. The case is not changed.
pub fn bare_host(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        // The colons in `[::1]` belong to the address.
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_specific_pattern_comes_first() {
        let mut map = HostMap::default();
        for pattern in ["a.example.com", "*.example.com", "*.b.example.com", "*.com"] {
            map.insert(Some(pattern.parse().unwrap()), pattern);
        }
        let fitting = |host| map.fitting(host).copied().collect::<Vec<_>>();
        for (host, patterns) in [
            (
                "a.example.com",
                &["a.example.com", "*.example.com", "*.com"][..],
            ),
            ("b.example.com", &["*.example.com", "*.com"]),
            (
                "c.b.example.com",
                &["*.b.example.com", "*.example.com", "*.com"],
            ),
            ("example.com", &["*.com"]),
            ("com", &[]),
            (".com", &[]),
            ("example.org", &[]),
            ("", &[]),
        ] {
            assert_eq!(fitting(Some(host)), patterns, "{host}");
        }
        assert!(fitting(None).is_empty());
        map.insert(None, "any");
        let last = |host| map.fitting(host).last().copied();
        assert_eq!(last(Some("example.org")), Some("any"));
        assert_eq!(last(None), Some("any"));
    }

    #[test]
    fn bare_host_strips_port_and_final_dot() {
        for (authority, host) in [
            ("example.com", "example.com"),
            ("example.com:8443", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:80", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("", ""),
        ] {
            assert_eq!(bare_host(authority), host, "{authority}");
        }
    }

    #[test]
    fn host_patterns_round_trip_and_invalid_ones_are_rejected() {
        for text in ["example.com", "*.example.com", "a", "a_b.svc.cluster.local"] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), text);
        }
        let long = "a".repeat(64);
        for text in [
            "", "*", "*.", "*a.com", "a.*.com", "**.a", "a..b", ".a", "a.", "10.0.0.1", "::1",
            "-a.com", "a-.com", "a b", "ä.com", &long,
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
