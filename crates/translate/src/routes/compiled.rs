//! The rules of a route as proxies get them, and whether they are usable.

use std::sync::Arc;

use weft_ir::{ConnectionRule, RequestMatch, RouteId, Rule, Timeouts, TlsRule};

use crate::limits::Size;

/// The rules of a route.
#[derive(Debug)]
pub(crate) enum Rules {
    Requests(Vec<CompiledRule>),
    /// `None` if no host name of the route can be read: it matches nothing.
    Tls(Option<CompiledConnections<TlsRule>>),
    Connections(CompiledConnections<ConnectionRule>),
}

impl Rules {
    /// Returns true if any part of the route works as intended.
    pub(crate) fn any_usable(&self) -> bool {
        match self {
            Self::Requests(rules) => rules.iter().any(|rule| rule.usable),
            Self::Tls(rule) => rule.as_ref().is_some_and(|rule| rule.usable),
            Self::Connections(rule) => rule.usable,
        }
    }

    /// Returns the size that counts for the ports where the rules are in effect.
    pub(super) fn size(&self) -> Size {
        match self {
            Self::Requests(rules) => Size::of_requests(rules.iter().map(|of| &*of.rule)),
            Self::Tls(rule) => Size {
                bytes: rule.as_ref().map_or(0, |of| of.rule.wire_size()),
                compiled: 0,
            },
            Self::Connections(of) => Size {
                bytes: of.rule.wire_size(),
                compiled: 0,
            },
        }
    }

    /// Replaces rules that are too large: requests that match no other rule get 500, and
    /// connections are closed.
    pub(super) fn refuse(&mut self, id: &RouteId, why: &str) {
        match self {
            Self::Requests(rules) => *rules = vec![refused(id, 0, why)],
            Self::Tls(rule) => *rule = None,
            Self::Connections(of) => {
                of.rule.backends.clear();
                of.usable = false;
            }
        }
    }
}

/// A rule for requests.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// The same `Arc` wherever the route is in effect.
    pub(crate) rule: Arc<Rule>,
    /// Whether some request can match the rule as intended.
    pub(crate) usable: bool,
}

/// The rule of a TLSRoute, TCPRoute or UDPRoute.
#[derive(Debug)]
pub(crate) struct CompiledConnections<R> {
    pub(crate) rule: R,
    /// Whether some connection can use the rule as intended.
    pub(crate) usable: bool,
}

/// Returns a rule that answers 500 to requests that match no other rule.
pub(super) fn refused(id: &RouteId, index: u32, why: &str) -> CompiledRule {
    let rule = Rule {
        route: id.clone(),
        index,
        name: None,
        matches: vec![RequestMatch {
            invalid: true,
            ..RequestMatch::default()
        }],
        filters: Vec::new(),
        backends: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        failure: Some(Arc::from(why)),
    };
    CompiledRule {
        rule: Arc::new(rule),
        usable: false,
    }
}
