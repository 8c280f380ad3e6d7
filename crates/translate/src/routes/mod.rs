//! Routes as rules, and what is wrong with them: the same for every parent that a route has.

mod backends;
mod filters;
mod grpc;
mod http;
mod report;
mod values;

use std::sync::Arc;

use weft_ir::{RouteId, RouteKind, Rule};

use crate::objects::{GrpcRoute, HttpRoute, Lenient, Meta, ParentRef};
use crate::services::Services;

pub(crate) use report::{Fault, Report};

/// A route, translated.
#[derive(Debug)]
pub(crate) struct Route<'a> {
    pub(crate) id: RouteId,
    pub(crate) meta: &'a Meta,
    pub(crate) parent_refs: &'a [Lenient<ParentRef>],
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) report: Report,
}

#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) rule: Rule,
    /// Some request can meet it as it was meant.
    pub(crate) works: bool,
}

impl<'a> Route<'a> {
    /// `None` when the object is not even a map: it names no parent then.
    pub(crate) fn http(route: &'a HttpRoute, services: &Services) -> Option<Self> {
        let HttpRoute { metadata, spec } = route;
        let spec = spec.as_ref().ok()?;
        let id = route_id(RouteKind::Http, metadata);
        let mut report = Report::default();
        let rules = http::rules(&id, &spec.rules, services, &mut report);
        Some(Self {
            id,
            meta: metadata,
            parent_refs: &spec.parent_refs,
            rules,
            report,
        })
    }

    /// As [`Route::http`].
    pub(crate) fn grpc(route: &'a GrpcRoute, services: &Services) -> Option<Self> {
        let GrpcRoute { metadata, spec } = route;
        let spec = spec.as_ref().ok()?;
        let id = route_id(RouteKind::Grpc, metadata);
        let mut report = Report::default();
        let rules = grpc::rules(&id, &spec.rules, services, &mut report);
        Some(Self {
            id,
            meta: metadata,
            parent_refs: &spec.parent_refs,
            rules,
            report,
        })
    }
}

fn route_id(kind: RouteKind, meta: &Meta) -> RouteId {
    RouteId {
        kind,
        namespace: Arc::from(&*meta.namespace),
        name: Arc::from(&*meta.name),
    }
}
