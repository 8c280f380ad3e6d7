//! Rules of HTTPRoutes.
//!
//! Source: `HTTPRouteRule` and `HTTPRouteMatch`, with their defaults.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use weft_ir::{Filter, PathMatch, RequestMatch, Retry, RouteId, Rule, TimeLimit, Timeouts};

use super::backends::{Backends, RuleContext, backends};
use super::compiled::{CompiledRule, refused};
use super::filters::{http_filters, replaces_prefix};
use super::patterns::PatternBudget;
use super::report::Report;
use super::values::{
    METHODS, duration, header_matches, pattern, query_matches, unknown_fields, unsupported,
};
use crate::conditions::Fault;
use crate::objects::{HttpMatch, HttpPathMatch, HttpRetry, HttpRule, HttpTimeouts, Lenient};

/// Default number of retries.
const ATTEMPTS: u32 = 1;

/// It is not known what the rule would match, so it answers 500 to requests that match no other
/// rule.
pub(super) fn unreadable(id: &RouteId, index: u32, why: &str, report: &mut Report) -> CompiledRule {
    let fault = Fault::value(&format!("rules[{index}]"), why);
    let rule = refused(id, index, &fault.text);
    report.fault(index, fault);
    rule
}

pub(super) fn rule(
    id: &RouteId,
    spec: &HttpRule,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> CompiledRule {
    let HttpRule {
        name,
        matches,
        filters,
        backend_refs,
        timeouts,
        retry,
        session_persistence,
    } = spec;
    let index = context.rule;
    let at = format!("rules[{index}]");
    if session_persistence.is_some() {
        report.ignored.push(format!("{at}.sessionPersistence"));
    }

    let matches = request_matches(matches, &at, index, report);
    let backends = backends(backend_refs, context, http_filters, report);
    let filters = http_filters(filters, &format!("{at}.filters"), context, report);
    let timeouts = timeouts_of(timeouts, &format!("{at}.timeouts"), report);
    let retry = retry
        .as_ref()
        .map(|spec| retry_of(spec, &format!("{at}.retry"), report));
    let retry = retry.transpose();
    let fault = filters
        .as_ref()
        .err()
        .or(timeouts.as_ref().err())
        .or(retry.as_ref().err())
        .cloned()
        .or_else(|| prefix_fault(filters.as_deref(), &backends, &matches, &at));
    let filters = filters.unwrap_or_default();

    let usable = fault.is_none()
        && !backends.all_invalid
        && matches.iter().any(|condition| !condition.invalid);
    let failure = match fault {
        Some(fault) => {
            let text = Arc::from(&*fault.text);
            report.failure(index, fault);
            Some(text)
        }
        None if filters.iter().any(|f| matches!(f, Filter::Redirect(_))) => None,
        None => no_backend_reason(&backends, &at),
    };
    let rule = Arc::new(Rule {
        route: id.clone(),
        index,
        name: name.as_deref().map(Arc::from),
        matches,
        filters,
        backends: backends.list,
        timeouts: timeouts.unwrap_or_default(),
        retry: retry.unwrap_or_default(),
        failure,
    });
    CompiledRule { rule, usable }
}

/// Returns why requests of the rule have no backend: there is none, or all have weight 0.
pub(super) fn no_backend_reason(backends: &Backends, at: &str) -> Option<Arc<str>> {
    if backends.list.is_empty() {
        Some(Arc::from(format!("{at} has no backendRefs")))
    } else if backends.list.iter().all(|backend| backend.weight == 0) {
        Some(Arc::from(format!("{at}: all backendRefs have weight 0")))
    } else {
        None
    }
}

fn request_matches(
    specs: &[Lenient<HttpMatch>],
    at: &str,
    index: u32,
    report: &mut Report,
) -> Vec<RequestMatch> {
    if specs.is_empty() {
        return vec![RequestMatch {
            path: Some(PathMatch::Prefix("/".to_owned())),
            ..RequestMatch::default()
        }];
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
    spec: &HttpMatch,
    at: &str,
    patterns: &mut PatternBudget,
) -> (RequestMatch, Vec<Fault>) {
    let HttpMatch {
        path,
        headers,
        query_params,
        method,
        unknown: others,
    } = spec;
    let mut faults: Vec<Fault> = unknown_fields(others, at).collect();
    let path = path_match(path.as_ref(), &format!("{at}.path"), patterns);
    let path = path.map_err(|fault| faults.push(fault)).ok();
    let (headers, header_faults) = header_matches(headers, &format!("{at}.headers"), patterns);
    faults.extend(header_faults);
    let (query, query_faults) = query_matches(query_params, &format!("{at}.queryParams"), patterns);
    faults.extend(query_faults);
    let method = method_match(method.as_deref(), &format!("{at}.method"));
    let condition = RequestMatch {
        path,
        headers,
        query,
        method: method.map_err(|fault| faults.push(fault)).ok().flatten(),
        invalid: false,
    };
    (condition, faults)
}

fn method_match(name: Option<&str>, at: &str) -> Result<Option<Method>, Fault> {
    let Some(name) = name else { return Ok(None) };
    let known = METHODS.iter().find(|method| method.as_str() == name);
    known.cloned().map(Some).ok_or_else(|| {
        let all: Vec<&str> = METHODS.iter().map(Method::as_str).collect();
        unsupported(at, name, &all.join(", "))
    })
}

fn path_match(
    spec: Option<&HttpPathMatch>,
    at: &str,
    patterns: &mut PatternBudget,
) -> Result<PathMatch, Fault> {
    let Some(HttpPathMatch { kind, value }) = spec else {
        return Ok(PathMatch::Prefix("/".to_owned()));
    };
    let value = value.as_deref().unwrap_or("/");
    let literal = || {
        let validity = value.starts_with('/') && !value.contains("//");
        let why = || format!("{value:?} must begin with / and must not contain //");
        let at = format!("{at}.value");
        validity
            .then(|| value.to_owned())
            .ok_or_else(|| Fault::value(&at, why()))
    };
    match kind.as_deref() {
        Some("Exact") => literal().map(PathMatch::Exact),
        None | Some("PathPrefix") => literal().map(PathMatch::Prefix),
        Some("RegularExpression") => {
            pattern(value, &format!("{at}.value"), patterns).map(PathMatch::Regex)
        }
        Some(other) => {
            let known = "Exact, PathPrefix, RegularExpression";
            Err(unsupported(&format!("{at}.type"), other, known))
        }
    }
}

/// ReplacePrefixMatch requires a prefix match (`HTTPPathModifier.replacePrefixMatch`).
fn prefix_fault(
    filters: Result<&[Filter], &Fault>,
    backends: &Backends,
    matches: &[RequestMatch],
    at: &str,
) -> Option<Fault> {
    let replaces = filters.is_ok_and(replaces_prefix)
        || backends
            .list
            .iter()
            .any(|backend| replaces_prefix(&backend.filters));
    let without = matches
        .iter()
        .position(|of| !of.invalid && !matches!(of.path, Some(PathMatch::Prefix(_))))?;
    let why = format_args!(
        "ReplacePrefixMatch requires a path match of type PathPrefix in every match; \
         matches[{without}] has none"
    );
    replaces.then(|| Fault::value(at, why))
}

fn timeouts_of(spec: &HttpTimeouts, at: &str, report: &mut Report) -> Result<Timeouts, Fault> {
    let HttpTimeouts {
        request,
        backend_request,
    } = spec;
    let limit = |text: Option<&str>, field: &str| match text {
        None => Ok(TimeLimit::Unsaid),
        // Zero disables the timeout.
        Some(text) => parse_duration(text, &format!("{at}.{field}")).map(TimeLimit::from),
    };
    let timeouts = Timeouts {
        request: limit(request.as_deref(), "request")?,
        backend: limit(backend_request.as_deref(), "backendRequest")?,
    };
    if let (Some(request), Some(backend)) = (timeouts.request.get(), timeouts.backend.get())
        && backend > request
    {
        report.adjusted.push(format!(
            "{at}.backendRequest: {backend:?} exceeds timeouts.request, so each attempt ends \
             after {request:?}"
        ));
    }
    Ok(timeouts)
}

fn parse_duration(text: &str, at: &str) -> Result<Duration, Fault> {
    duration(text).ok_or_else(|| {
        let why = format_args!("{text:?} is not a duration such as 10s or 1m30s (GEP-2257)");
        Fault::value(at, why)
    })
}

/// Values out of range are replaced by the nearest one in range. Without attempts the rule disables
/// retries.
fn retry_of(spec: &HttpRetry, at: &str, report: &mut Report) -> Result<Retry, Fault> {
    let HttpRetry {
        codes,
        attempts,
        backoff,
    } = spec;
    let code = |(position, code): (usize, &i64)| {
        let number = u16::try_from(*code).ok();
        let code = number.filter(|code| (400..=599).contains(code));
        code.and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| {
                let why = "a status code to retry must be between 400 and 599";
                Fault::value(&format!("{at}.codes[{position}]"), why)
            })
    };
    let attempts = match *attempts {
        None => ATTEMPTS,
        Some(attempts) if attempts < 0 => {
            let why = format_args!("{attempts} is negative; 0 disables retries");
            return Err(Fault::value(&format!("{at}.attempts"), why));
        }
        Some(attempts) => u32::try_from(attempts).unwrap_or(u32::MAX),
    };
    let mut known = Vec::new();
    for code in codes.iter().enumerate().map(code) {
        let code = code?;
        if !known.contains(&code) {
            known.push(code);
        }
    }
    let mut wait = match backoff {
        None => Retry::LEAST_BACKOFF,
        Some(text) => parse_duration(text, &format!("{at}.backoff"))?,
    };
    if attempts == 0 {
        return Ok(Retry::off());
    }
    let most = Retry::MAX_ATTEMPTS;
    if attempts > most {
        report.adjusted.push(format!(
            "{at}.attempts: {attempts} exceeds the maximum; {most} is used"
        ));
    }
    let least = Retry::LEAST_BACKOFF;
    if wait < least {
        report.adjusted.push(format!(
            "{at}.backoff: {wait:?} is below the minimum; {least:?} is used"
        ));
        wait = least;
    }
    Ok(Retry {
        codes: known,
        attempts: attempts.min(most),
        backoff: wait,
    })
}
