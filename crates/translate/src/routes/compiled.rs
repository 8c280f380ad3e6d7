//! What routes become: rules as proxies are told of them, and whether they work.

use std::sync::Arc;

use weft_ir::{ConnectionRule, RequestMatch, RouteId, Rule, Timeouts, TlsRule};

use crate::limits::Size;

/// What a route routes.
#[derive(Debug)]
pub(crate) enum Rules {
    Requests(Vec<CompiledRule>),
    /// `None`: no name of its servers can be read, so that it takes nothing.
    Tls(Option<CompiledConnections<TlsRule>>),
    Bytes(CompiledConnections<ConnectionRule>),
}

impl Rules {
    /// Whether anything in the route works as it was meant.
    pub(crate) fn work(&self) -> bool {
        match self {
            Self::Requests(rules) => rules.iter().any(|rule| rule.works),
            Self::Tls(rule) => rule.as_ref().is_some_and(|rule| rule.works),
            Self::Bytes(rule) => rule.works,
        }
    }

    /// What the rules take of the ports where they are in force.
    pub(super) fn size(&self) -> Size {
        match self {
            Self::Requests(rules) => Size::of_requests(rules.iter().map(|of| &*of.rule)),
            Self::Tls(rule) => Size {
                bytes: rule.as_ref().map_or(0, |of| of.rule.wire_size()),
                compiled: 0,
            },
            Self::Bytes(of) => Size {
                bytes: of.rule.wire_size(),
                compiled: 0,
            },
        }
    }

    /// Instead of rules that are too large: requests that no other rule takes are answered with 500, connections are
    /// closed.
    pub(super) fn refuse(&mut self, id: &RouteId, why: &str) {
        match self {
            Self::Requests(rules) => *rules = vec![refused(id, 0, why)],
            Self::Tls(rule) => *rule = None,
            Self::Bytes(of) => {
                of.rule.backends.clear();
                of.works = false;
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// The same `Arc` wherever the route is in force.
    pub(crate) rule: Arc<Rule>,
    /// Some request can meet it as it was meant.
    pub(crate) works: bool,
}

/// The rule of a route of connections.
#[derive(Debug)]
pub(crate) struct CompiledConnections<R> {
    pub(crate) rule: R,
    /// Some connection can meet it as it was meant.
    pub(crate) works: bool,
}

/// Answers 500 to what no other rule takes.
pub(super) fn refused(id: &RouteId, index: u32, why: &str) -> CompiledRule {
    let rule = Rule {
        route: id.clone(),
        index,
        name: None,
        matches: vec![RequestMatch {
            broken: true,
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
        works: false,
    }
}
