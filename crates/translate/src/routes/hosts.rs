//! What the host names of a listener and of a route have in common.
//!
//! Source: `Listener.hostname`, `HTTPRouteSpec.hostnames`, `TLSRouteSpec.hostnames` of Gateway API v1.7.0 (precedence by
//! the original hostnames of routes, feature `GatewayRouteHostnameIntersectionPrecedence`).

use weft_ir::HostPattern;

/// `None` as a pattern: any host.
pub(crate) type Host = Option<HostPattern>;

/// The host names of a route.
#[derive(Debug)]
pub(crate) enum RouteHosts {
    Any,
    /// Those that could be read, which may be none.
    These(Vec<HostPattern>),
}

/// The hosts of a route that have something in common with a listener: each once, in the route's order. Empty: it cannot
/// attach. They are the route's own, wider than the listener or not: by these routes go before each other, and what the
/// listener does not take never comes to them.
pub(crate) fn on_listener(listener: Option<&HostPattern>, route: &RouteHosts) -> Vec<Host> {
    match route {
        RouteHosts::Any => vec![None],
        RouteHosts::These(hosts) => {
            let mut all: Vec<Host> = Vec::new();
            for host in hosts {
                let own = Some(host.clone());
                if intersection(listener, Some(host)).is_some() && !all.contains(&own) {
                    all.push(own);
                }
            }
            all
        }
    }
}

/// `None`: no host fits both.
pub(crate) fn intersection(a: Option<&HostPattern>, b: Option<&HostPattern>) -> Option<Host> {
    let (Some(one), Some(other)) = (a, b) else {
        return Some(a.or(b).cloned());
    };
    if contains(one, other) {
        Some(Some(other.clone()))
    } else if contains(other, one) {
        Some(Some(one.clone()))
    } else {
        None
    }
}

/// Whether every host that fits `inner` fits `outer`.
fn contains(outer: &HostPattern, inner: &HostPattern) -> bool {
    match (outer, inner) {
        (HostPattern::Exact(outer), HostPattern::Exact(inner)) => outer == inner,
        (HostPattern::Exact(_), HostPattern::Below(_)) => false,
        (HostPattern::Below(suffix), HostPattern::Exact(host)) => {
            host.len() > suffix.len() && host.ends_with(&**suffix)
        }
        (HostPattern::Below(suffix), HostPattern::Below(inner)) => inner.ends_with(&**suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_of_two_is_what_they_have_in_common() {
        for (a, b, both) in [
            ("a.com", "a.com", Some("a.com")),
            ("a.com", "b.com", None),
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("*.a.com", "x.y.a.com", Some("x.y.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "x.ba.com", None),
            ("*.a.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.x.a.com", Some("*.x.a.com")),
            ("*.a.com", "*.b.com", None),
            ("", "*.a.com", Some("*.a.com")),
            ("", "a.com", Some("a.com")),
            ("", "", Some("")),
        ] {
            let read =
                |text: &str| (!text.is_empty()).then(|| text.parse::<HostPattern>().unwrap());
            let (a, b) = (read(a), read(b));
            assert_eq!(
                intersection(a.as_ref(), b.as_ref()),
                both.map(read),
                "{a:?} {b:?}"
            );
            assert_eq!(
                intersection(b.as_ref(), a.as_ref()),
                both.map(read),
                "{b:?} {a:?}"
            );
        }
    }
}
