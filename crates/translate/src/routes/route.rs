//! A route of any kind.

use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use super::compiled::Rules;
use super::hosts::RouteHosts;
use super::object::Source;
use super::report::Report;
use super::resolver::Resolver;
use super::values::host_patterns;
use crate::limits::Size;
use crate::names::route_id;
use crate::objects::Lenient;

/// A route, translated.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) id: RouteId,
    pub(crate) source: Arc<dyn Source>,
    /// What it means by its hostnames at Gateways.
    pub(crate) hosts: RouteHosts,
    pub(crate) rules: Rules,
    /// What its rules take of the ports where it is in force.
    pub(crate) size: Size,
    pub(crate) report: Report,
}

impl Route {
    /// `None` when the object is not even a map, so that it has no `rules`.
    pub(super) fn new<T: Source + 'static>(
        kind: RouteKind,
        of: &Arc<T>,
        resolver: &Resolver,
        rules: impl FnOnce(&RouteId, &mut Report) -> Option<Rules>,
    ) -> Option<Self> {
        let id = route_id(kind, of.meta());
        let mut report = Report::default();
        let mut rules = rules(&id, &mut report)?;
        let mut size = rules.size();
        if let Some(fault) = report.patterns.too_large().or_else(|| size.too_large()) {
            rules.refuse(&id, &fault.text);
            size = rules.size();
            report.faults = vec![(0, fault)];
        }
        let hosts = match &rules {
            // The rule has been read with the names, and their faults told.
            Rules::Tls(_) => hosts(of.hostnames(), resolver, &mut Report::default()),
            Rules::Requests(_) | Rules::Bytes(_) => hosts(of.hostnames(), resolver, &mut report),
        };
        Some(Self {
            id,
            source: Arc::clone(of) as _,
            hosts,
            rules,
            size,
            report,
        })
    }

    /// The order that decides ties between routes (specification of `HTTPRouteRule.matches`).
    pub(crate) fn tie_order(&self) -> (String, String) {
        let age = self.source.meta().creation_timestamp.clone();
        (age, format!("{}/{}", self.id.namespace, self.id.name))
    }
}

/// Under Services they mean nothing. What cannot be read of them becomes the route's fault.
fn hosts(names: &[Lenient<String>], resolver: &Resolver, report: &mut Report) -> RouteHosts {
    if resolver.gateway.is_none() || names.is_empty() {
        return RouteHosts::Any;
    }
    RouteHosts::These(host_patterns(names, report))
}
