//! Rules of TLSRoutes, TCPRoutes and UDPRoutes.
//!
//! Source: `TLSRouteSpec`, `TCPRouteSpec` and `UDPRouteSpec`.

use std::sync::Arc;

use crate::hosts::HostPattern;
use crate::route::{RouteId, WeightedBackend};

/// The rule of a TCPRoute or UDPRoute, or of a TLSRoute without its host names: every connection is
/// sent to one of the backends.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRule {
    /// The route that the rule belongs to.
    pub route: RouteId,
    /// Position in the route, from 0.
    pub index: u32,
    /// Name of the rule.
    pub name: Option<Arc<str>>,
    /// Where connections are sent.
    pub backends: Vec<WeightedBackend>,
}

/// A rule of a TLSRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRule {
    /// Empty for any SNI, or none.
    pub hostnames: Vec<HostPattern>,
    /// Where connections are sent.
    pub rule: ConnectionRule,
}

/// Returns the place of the rule for a connection to the server `name`, which is `None` if the
/// client sent no server name. Among rules that fit equally well the first one wins.
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
    use crate::route::RouteKind;

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
    fn most_specific_host_name_wins() {
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
    fn rule_without_host_names_matches_the_rest() {
        let rules = rules(&[&[], &["*.example.com"], &[]]);
        assert_eq!(find_tls(&rules, Some("a.example.com")), Some(1));
        assert_eq!(find_tls(&rules, Some("example.com")), Some(0));
        assert_eq!(find_tls(&rules, None), Some(0));
    }
}
