//! Routes of connections: where bytes go, by the server's name in TLS or whatever they are.
//!
//! Source: `TLSRouteSpec` and `TCPRouteSpec`. What a connection is, is found out elsewhere.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{RouteId, WeightedBackend};

/// A rule of a TCPRoute, or of a TLSRoute without its host names: every connection goes to one of the backends.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRule {
    pub route: RouteId,
    /// Place in the route, from 0.
    pub index: u32,
    pub name: Option<Arc<str>>,
    pub backends: Vec<WeightedBackend>,
}

/// A rule of a TLSRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRule {
    /// Empty: any server name, and none.
    pub hostnames: Vec<HostPattern>,
    pub rule: ConnectionRule,
}

/// The names of servers, in lower case: one, or all below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com` as `.example.com`: takes `a.example.com` and `a.b.example.com`, not `example.com`.
    Below(String),
}

/// The text is no name of servers.
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

/// RFC 1123, 2.1; `_` besides, which clusters' names have.
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
    /// How well the pattern fits `name`, which is in lower case: exact goes before wildcard, longer before shorter.
    fn fit(&self, name: &str) -> Option<(bool, usize)> {
        match self {
            Self::Exact(host) => (host == name).then_some((true, host.len())),
            Self::Below(suffix) => {
                let below = name.len() > suffix.len() && name.ends_with(&**suffix);
                below.then_some((false, suffix.len()))
            }
        }
    }
}

/// Returns the place of the rule for a connection to the server `name`, which is `None` if the client
/// sent no server name. Among rules that fit equally well the first one wins.
pub fn find_tls<'a>(
    rules: impl IntoIterator<Item = &'a TlsRule>,
    name: Option<&str>,
) -> Option<usize> {
    let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let fit = |rule: &TlsRule| {
        if rule.hostnames.is_empty() {
            return Some((false, 0));
        }
        let name = name.as_deref()?;
        rule.hostnames
            .iter()
            .filter_map(|host| host.fit(name))
            .max()
    };
    let mut best = None;
    for (place, rule) in rules.into_iter().enumerate() {
        let Some(fit) = fit(rule) else { continue };
        if best.is_none_or(|(_, before)| fit > before) {
            best = Some((place, fit));
        }
    }
    best.map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RouteKind;

    fn rules(hostnames: &[&[&str]]) -> Vec<TlsRule> {
        let rule = |(hostnames, index): (&&[&str], u32)| TlsRule {
            hostnames: hostnames.iter().map(|h| h.parse().unwrap()).collect(),
            rule: ConnectionRule {
                route: RouteId {
                    kind: RouteKind::Tls,
                    namespace: "shop".into(),
                    name: "r".into(),
                },
                index,
                name: None,
                backends: Vec::new(),
            },
        };
        hostnames.iter().zip(0..).map(rule).collect()
    }

    #[test]
    fn the_closest_name_takes_the_connection() {
        let rules = rules(&[
            &["*.example.com"],
            &["*.b.example.com", "other.com"],
            &["a.b.example.com"],
            &["a.b.example.com", "*.example.com"],
        ]);
        for (name, taken) in [
            ("a.b.example.com", Some(2)),
            ("A.B.Example.COM", Some(2)),
            ("a.b.example.com.", Some(2)),
            ("c.b.example.com", Some(1)),
            ("d.c.b.example.com", Some(1)),
            ("b.example.com", Some(0)),
            ("example.com", None),
            ("badexample.com", None),
            ("other.com", Some(1)),
            ("a.other.com", None),
        ] {
            assert_eq!(find_tls(&rules, Some(name)), taken, "{name}");
        }
        assert_eq!(find_tls(&rules, None), None);
    }

    #[test]
    fn a_rule_without_names_takes_what_is_left() {
        let rules = rules(&[&[], &["*.example.com"], &[]]);
        assert_eq!(find_tls(&rules, Some("a.example.com")), Some(1));
        assert_eq!(find_tls(&rules, Some("example.com")), Some(0));
        assert_eq!(find_tls(&rules, None), Some(0));
    }

    #[test]
    fn names_read_back_as_they_print_and_what_is_none_is_refused() {
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
