//! A translated route of any kind.

use std::sync::Arc;

use weft_ir::{RouteId, RouteKind};

use super::compiled::Rules;
use super::hosts::RouteHosts;
use super::object::RouteObject;
use super::report::Report;
use super::resolver::TrackedLookup;
use super::values::host_patterns;
use crate::conditions::Fault;
use crate::limits::Size;
use crate::names::route_id;
use crate::objects::Lenient;

/// A translated route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) id: RouteId,
    /// The object that the route was translated from.
    pub(crate) object: Arc<dyn RouteObject>,
    /// Host names, for Gateways.
    pub(crate) hosts: RouteHosts,
    pub(crate) rules: Rules,
    /// Size of its rules on the ports where it is in effect.
    pub(crate) size: Size,
    /// Its faults.
    pub(crate) report: Report,
}

impl Route {
    /// Returns `None` if the object is not even a map, so that it has no rules.
    pub(super) fn new<T: RouteObject + 'static>(
        kind: RouteKind,
        of: &Arc<T>,
        lookup: &TrackedLookup<'_>,
        rules: impl FnOnce(&T, &RouteId, &TrackedLookup<'_>, &mut Report) -> Option<Rules>,
    ) -> Option<Self> {
        let id = route_id(kind, of.meta());
        let mut report = Report::default();
        let mut rules = rules(of, &id, lookup, &mut report)?;
        let mut size = rules.size();
        if let Some(fault) = report.patterns.too_large().or_else(|| size.too_large()) {
            rules.refuse(&id, &fault.text);
            size = rules.size();
            report.faults = vec![(0, fault)];
        }
        let (hosts, faults) = hosts(of.hostnames(), lookup);
        // Those of a TLSRoute were reported when its rule was read.
        if !matches!(rules, Rules::Tls(_)) {
            report.fault_all(0, faults);
        }
        Some(Self {
            id,
            object: Arc::clone(of) as _,
            hosts,
            rules,
            size,
            report,
        })
    }

    /// Returns the tie-breaking order of routes (`HTTPRouteRule.matches`): by age, then by name.
    pub(crate) fn tie_order(&self) -> (String, String) {
        let age = self.object.meta().creation_timestamp.clone();
        (age, format!("{}/{}", self.id.namespace, self.id.name))
    }
}

/// Host names have no meaning on Services. Those that cannot be read are faults of the route.
fn hosts(names: &[Lenient<String>], lookup: &TrackedLookup<'_>) -> (RouteHosts, Vec<Fault>) {
    if lookup.gateway().is_none() || names.is_empty() {
        return (RouteHosts::Any, Vec::new());
    }
    let (patterns, faults) = host_patterns(names);
    (RouteHosts::These(patterns), faults)
}
