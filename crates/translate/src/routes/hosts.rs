//! Intersection of the host names of a listener and a route.
//!
//! Source: `Listener.hostname`, `HTTPRouteSpec.hostnames`, `TLSRouteSpec.hostnames` of Gateway API
//! v1.7.0 (precedence by the original host names of routes, feature
//! `GatewayRouteHostnameIntersectionPrecedence`).

use weft_ir::HostPattern;

/// A host pattern; `None` matches any host.
pub(crate) type Host = Option<HostPattern>;

/// The host names of a route.
#[derive(Debug)]
pub(crate) enum RouteHosts {
    Any,
    /// The valid host names, possibly none.
    These(Vec<HostPattern>),
}

/// Returns the host names of a route that intersect with a listener's, each once, in the route's
/// order; empty if the route cannot attach. They are the route's own names even if the listener's
/// is narrower: precedence among routes depends on them, and requests that the listener does not
/// match never reach them.
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

/// Returns `None` if no host matches both.
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

/// Returns true if every host that matches `inner` matches `outer`.
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
    fn intersection_is_the_narrower_pattern() {
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
