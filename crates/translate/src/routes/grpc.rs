//! Rules of GRPCRoutes.
//!
//! Source: `GRPCRouteRule` and `GRPCRouteMatch`. A method is the path `/package.Service/Method`.

use std::sync::Arc;

use weft_ir::{PathMatch, RequestMatch, RouteId, Rule, Timeouts};

use super::backends::{RuleContext, backends};
use super::compiled::CompiledRule;
use super::filters::grpc_filters;
use super::http::no_backend_reason;
use super::patterns::PatternBudget;
use super::report::Report;
use super::values::{header_matches, pattern, unknown_fields, unsupported};
use crate::conditions::Fault;
use crate::objects::{GrpcMatch, GrpcMethodMatch, GrpcRule, Lenient};

pub(super) fn rule(
    id: &RouteId,
    spec: &GrpcRule,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> CompiledRule {
    let GrpcRule {
        name,
        matches,
        filters,
        backend_refs,
        session_persistence,
    } = spec;
    let index = context.rule;
    let at = format!("rules[{index}]");
    if session_persistence.is_some() {
        report.ignored.push(format!("{at}.sessionPersistence"));
    }

    let matches = request_matches(matches, &at, index, report);
    let backends = backends(backend_refs, context, grpc_filters, report);
    let filters = grpc_filters(filters, &format!("{at}.filters"), context, report);
    let usable = filters.is_ok()
        && !backends.all_invalid
        && matches.iter().any(|condition| !condition.invalid);
    let (filters, failure) = match filters {
        Ok(filters) => (filters, no_backend_reason(&backends, &at)),
        Err(fault) => {
            let text: Arc<str> = Arc::from(&*fault.text);
            report.failure(index, fault);
            (Vec::new(), Some(text))
        }
    };
    let rule = Arc::new(Rule {
        route: id.clone(),
        index,
        name: name.as_deref().map(Arc::from),
        matches,
        filters,
        backends: backends.list,
        timeouts: Timeouts::default(),
        retry: None,
        failure,
    });
    CompiledRule { rule, usable }
}

fn request_matches(
    specs: &[Lenient<GrpcMatch>],
    at: &str,
    index: u32,
    report: &mut Report,
) -> Vec<RequestMatch> {
    if specs.is_empty() {
        return vec![RequestMatch::default()];
    }
    let mut matches = Vec::with_capacity(specs.len());
    for (position, spec) in specs.iter().enumerate() {
        let at = format!("{at}.matches[{position}]");
        let (mut condition, faults) = match spec.as_ref() {
            Ok(spec) => request_match(spec, &at, &mut report.patterns),
            Err(why) => (RequestMatch::default(), vec![Fault::value(&at, why)]),
        };
        condition.invalid = !faults.is_empty();
        report.fault_all(index, faults);
        matches.push(condition);
    }
    matches
}

/// Returns the conditions that can be read, and the faults of the others.
fn request_match(
    spec: &GrpcMatch,
    at: &str,
    patterns: &mut PatternBudget,
) -> (RequestMatch, Vec<Fault>) {
    let GrpcMatch {
        method,
        headers,
        unknown: others,
    } = spec;
    let mut faults: Vec<Fault> = unknown_fields(others, at).collect();
    let (headers, header_faults) = header_matches(headers, &format!("{at}.headers"), patterns);
    faults.extend(header_faults);
    let path = method.as_ref().map(|spec| method_match(spec, at, patterns));
    let path = path.transpose().map(Option::flatten);
    let condition = RequestMatch {
        path: path.map_err(|fault| faults.push(fault)).ok().flatten(),
        headers,
        ..RequestMatch::default()
    };
    (condition, faults)
}

/// Empty and absent fields match anything.
fn method_match(
    spec: &GrpcMethodMatch,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<Option<PathMatch>, Fault> {
    let GrpcMethodMatch {
        kind,
        service,
        method,
    } = spec;
    let service = service.as_deref().unwrap_or_default();
    let method = method.as_deref().unwrap_or_default();
    let at = format!("{at}.method");
    match kind.as_deref() {
        None | Some("Exact") => exact(service, method, &at),
        Some("RegularExpression") => regex(service, method, &at, patterns),
        Some(other) => {
            let known = "Exact, RegularExpression";
            Err(unsupported(&format!("{at}.type"), other, known))
        }
    }
}

fn exact(service: &str, method: &str, at: &str) -> Result<Option<PathMatch>, Fault> {
    for (field, text) in [("service", service), ("method", method)] {
        if text.contains('/') {
            let why = format_args!("{text:?} must not contain /");
            return Err(Fault::value(&format!("{at}.{field}"), why));
        }
    }
    Ok(match (service, method) {
        ("", "") => None,
        ("", method) => Some(PathMatch::GrpcMethod(method.to_owned())),
        (service, "") => Some(PathMatch::Prefix(format!("/{service}"))),
        (service, method) => Some(PathMatch::Exact(format!("/{service}/{method}"))),
    })
}

fn regex(
    service: &str,
    method: &str,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<Option<PathMatch>, Fault> {
    if service.is_empty() && method.is_empty() {
        return Ok(None);
    }
    let mut part = |text: &str, field: &str| match text {
        "" => Ok("[^/]+".to_owned()),
        // Compiled separately first, so that an error quotes what the user wrote.
        text => pattern(text, &format!("{at}.{field}"), patterns).map(|_| format!("(?:{text})")),
    };
    let (service, method) = (part(service, "service")?, part(method, "method")?);
    pattern(&format!("/{service}/{method}"), at, patterns)
        .map(|whole| Some(PathMatch::Regex(whole)))
}
