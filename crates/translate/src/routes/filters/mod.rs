//! Filters of rules and backends. An unsupported filter makes its rule fail, since the
//! specification forbids skipping it.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::{ExternalAuth, Filter, Fraction, Mirror, PathEdit, ServicePort};

use super::backends::{RuleContext, resolve_object, resolve_object_of};
use super::report::Report;
use super::resolver::Resolver;
use super::values::unsupported;
use crate::conditions::{FILTER_NOT_FOUND, Fault, INVALID_FILTER};
use crate::objects::{
    ExtensionRef, ExternalAuthFilter, GrpcFilter, HeaderFilter, HttpFilter, Lenient, RequestMirror,
};
use crate::references::grants::Referrer;

mod cors;
mod external_auth;
pub(crate) mod headers;
mod rewrite;

use headers::header_edit;
use rewrite::{redirect, rewrite};

/// Returns the filters in order, or the first fault.
pub(super) fn http_filters(
    filters: &[Lenient<HttpFilter>],
    at: &str,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> Result<Vec<Filter>, Fault> {
    all(filters, at, |filter, at| {
        http_filter(filter, at, context, report)
    })
}

/// Like [`http_filters`], for GRPCRoutes.
pub(super) fn grpc_filters(
    filters: &[Lenient<GrpcFilter>],
    at: &str,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> Result<Vec<Filter>, Fault> {
    all(filters, at, |filter, at| {
        grpc_filter(filter, at, context, report)
    })
}

/// `read` returns `None` for a filter that the specification requires to leave out.
fn all<F>(
    filters: &[Lenient<F>],
    at: &str,
    mut read: impl FnMut(&F, &str) -> Result<Option<Filter>, Fault>,
) -> Result<Vec<Filter>, Fault> {
    let mut translated = Vec::with_capacity(filters.len());
    for (position, filter) in filters.iter().enumerate() {
        let at = format!("{at}[{position}]");
        let filter = filter.as_ref().map_err(|why| Fault::value(&at, why))?;
        translated.extend(read(filter, &at)?);
    }
    refuse_combinations(&translated, at)?;
    Ok(translated)
}

fn http_filter(
    filter: &HttpFilter,
    at: &str,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> Result<Option<Filter>, Fault> {
    let HttpFilter {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_redirect,
        url_rewrite,
        request_mirror,
        cors,
        external_auth,
        extension_ref,
    } = filter;
    let common = CommonFilter {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        extension_ref,
    };
    if let Some(read) = common.read(at, context, report) {
        return read;
    }
    let translated = match kind.as_str() {
        "RequestRedirect" => {
            let (spec, at) = required(request_redirect, at, "requestRedirect")?;
            redirect(spec, &at).map(Filter::Redirect)
        }
        "URLRewrite" => {
            let (spec, at) = required(url_rewrite, at, "urlRewrite")?;
            rewrite(spec, &at).map(Filter::Rewrite)
        }
        "CORS" => {
            let (spec, at) = required(cors, at, "cors")?;
            self::cors::cors(spec, &at).map(Filter::Cors)
        }
        "ExternalAuth" => {
            let (spec, at) = required(external_auth, at, "externalAuth")?;
            let server = |of: &_, at: &str| match resolve_object(of, at, context, report) {
                Ok(resolved) => resolved,
                Err(fault) => {
                    let why = Arc::from(&*fault.text);
                    report.unresolved.push(fault);
                    Err(why)
                }
            };
            self::external_auth::external_auth(spec, &at, server).map(Filter::ExternalAuth)
        }
        other => Err(unsupported(
            &format!("{at}.type"),
            other,
            "RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite, RequestMirror, CORS, ExternalAuth, ExtensionRef",
        )),
    };
    translated.map(Some)
}

fn grpc_filter(
    filter: &GrpcFilter,
    at: &str,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> Result<Option<Filter>, Fault> {
    let GrpcFilter {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        extension_ref,
    } = filter;
    let common = CommonFilter {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        extension_ref,
    };
    common.read(at, context, report).unwrap_or_else(|| {
        Err(unsupported(
            &format!("{at}.type"),
            kind,
            "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, ExtensionRef",
        ))
    })
}

/// The filter of a listener.
pub(crate) struct ListenerAuth {
    pub(crate) filter: Arc<ExternalAuth>,
    /// Why the server cannot be resolved, with the reason that routes report.
    pub(crate) unresolved: Option<Fault>,
    /// The server, if it exists.
    pub(crate) target: BTreeSet<ServicePort>,
}

/// Reads the filter of a listener of `from`. Without a resolver, its server is not resolved.
pub(crate) fn listener_auth(
    spec: &ExternalAuthFilter,
    at: &str,
    from: Referrer<'_>,
    resolver: Option<&Resolver>,
) -> Result<ListenerAuth, Fault> {
    let mut report = Report::default();
    let mut unresolved = None;
    let server = |of: &_, at: &str| {
        let Some(resolver) = resolver else {
            return Err(Arc::from(""));
        };
        let resolved = resolve_object_of(of, at, from, &resolver.track(), &mut report);
        let fault = match resolved {
            Ok(Ok(port)) => return Ok(port),
            Ok(Err(why)) => Fault {
                reason: "BackendNotFound",
                text: format!("{at}: {why}"),
            },
            Err(fault) => fault,
        };
        let why = Arc::from(&*fault.text);
        unresolved = Some(fault);
        Err(why)
    };
    let filter = external_auth::external_auth(spec, at, server)?;
    Ok(ListenerAuth {
        filter,
        unresolved,
        target: report.targets,
    })
}

/// The filter types that HTTPRoutes and GRPCRoutes have in common.
struct CommonFilter<'a> {
    kind: &'a str,
    request_header_modifier: &'a Option<HeaderFilter>,
    response_header_modifier: &'a Option<HeaderFilter>,
    request_mirror: &'a Option<RequestMirror>,
    extension_ref: &'a Option<ExtensionRef>,
}

impl CommonFilter<'_> {
    /// Returns `None` for other types.
    fn read(
        &self,
        at: &str,
        context: &RuleContext<'_>,
        report: &mut Report,
    ) -> Option<Result<Option<Filter>, Fault>> {
        let headers = |field, name| {
            let (headers, at) = required(field, at, name)?;
            header_edit(headers, &at)
        };
        let read = match self.kind {
            "RequestHeaderModifier" => {
                headers(self.request_header_modifier, "requestHeaderModifier")
                    .map(|edit| Some(Filter::RequestHeaders(edit)))
            }
            "ResponseHeaderModifier" => {
                headers(self.response_header_modifier, "responseHeaderModifier")
                    .map(|edit| Some(Filter::ResponseHeaders(edit)))
            }
            "RequestMirror" => required(self.request_mirror, at, "requestMirror")
                .and_then(|(spec, at)| mirror(spec, &at, context, report)),
            "ExtensionRef" => required(self.extension_ref, at, "extensionRef")
                .and_then(|(of, at)| extension(of, &at, context).map(Some)),
            _ => return None,
        };
        Some(read)
    }
}

/// Returns the field that the filter's type requires, and its path.
fn required<'a, T>(field: &'a Option<T>, at: &str, name: &str) -> Result<(&'a T, String), Fault> {
    let field = field
        .as_ref()
        .ok_or_else(|| Fault::value(at, format_args!("{name} is required")))?;
    Ok((field, format!("{at}.{name}")))
}

/// Each type can be used once, except mirrors; a redirect and a rewrite cannot be combined.
fn refuse_combinations(filters: &[Filter], at: &str) -> Result<(), Fault> {
    let count = |is: fn(&Filter) -> bool| filters.iter().filter(|filter| is(filter)).count();
    let redirects = count(|filter| matches!(filter, Filter::Redirect(_)));
    let rewrites = count(|filter| matches!(filter, Filter::Rewrite(_)));
    let requests = count(|filter| matches!(filter, Filter::RequestHeaders(_)));
    let responses = count(|filter| matches!(filter, Filter::ResponseHeaders(_)));
    let cors = count(|filter| matches!(filter, Filter::Cors(_)));
    let external_auth = count(|filter| matches!(filter, Filter::ExternalAuth(_)));
    let faults = count(|filter| matches!(filter, Filter::Fault(_)));
    if redirects > 0 && rewrites > 0 {
        let why = "RequestRedirect and URLRewrite cannot be used together";
        return Err(Fault::filters(at, why));
    }
    if [
        redirects,
        rewrites,
        requests,
        responses,
        cors,
        external_auth,
        faults,
    ]
    .into_iter()
    .any(|times| times > 1)
    {
        return Err(Fault::filters(at, "a type of filter can be used only once"));
    }
    Ok(())
}

/// A filter that cannot be resolved must not be skipped (`HTTPRouteFilter.extensionRef`).
fn extension(of: &ExtensionRef, at: &str, context: &RuleContext<'_>) -> Result<Filter, Fault> {
    let ExtensionRef { group, kind, name } = of;
    if (&**group, &**kind) != (weft_policy::GROUP, "FaultFilter") {
        let group_of_ours = weft_policy::GROUP;
        return Err(Fault::value(
            at,
            format_args!(
                "kind {kind:?} of group {group:?} is not supported; FaultFilter of group \
                 {group_of_ours} is"
            ),
        ));
    }
    let namespace = context.route.namespace.to_string();
    let id = format!("FaultFilter {namespace}/{name}");
    match context.lookup.fault((namespace, name.clone())) {
        Some(Ok(injection)) => Ok(Filter::Fault(Arc::clone(injection))),
        Some(Err(why)) => Err(Fault {
            reason: INVALID_FILTER,
            text: format!("{at}: {id} is invalid: {why}"),
        }),
        None => Err(Fault {
            reason: FILTER_NOT_FOUND,
            text: format!("{at}: {id} does not exist"),
        }),
    }
}

/// A backend that cannot be resolved only affects ResolvedRefs: the rule applies without the mirror
/// (`HTTPRequestMirrorFilter.backendRef`).
fn mirror(
    spec: &RequestMirror,
    at: &str,
    context: &RuleContext<'_>,
    report: &mut Report,
) -> Result<Option<Filter>, Fault> {
    let RequestMirror {
        backend_ref,
        percent,
        fraction,
    } = spec;
    let fraction = match (percent, fraction) {
        (None, None) => Fraction::ALL,
        (Some(percent), None) => fraction_of(*percent, 100, &format!("{at}.percent"))?,
        (
            None,
            Some(crate::objects::Fraction {
                numerator,
                denominator,
            }),
        ) => fraction_of(
            *numerator,
            denominator.unwrap_or(100),
            &format!("{at}.fraction"),
        )?,
        (Some(_), Some(_)) => {
            let why = "percent and fraction cannot be used together";
            return Err(Fault::value(at, why));
        }
    };
    match resolve_object(backend_ref, &format!("{at}.backendRef"), context, report) {
        Ok(Err(_)) => Ok(None),
        Ok(Ok(to)) => Ok(Some(Filter::Mirror(Mirror { to, fraction }))),
        Err(fault) => {
            report.unresolved.push(fault);
            Ok(None)
        }
    }
}

fn fraction_of(numerator: i64, denominator: i64, at: &str) -> Result<Fraction, Fault> {
    let part = u32::try_from(numerator).ok();
    let parts = part.zip(u32::try_from(denominator).ok());
    let fraction = parts.and_then(|(part, whole)| Fraction::new(part, whole));
    fraction.ok_or_else(|| {
        let why = format_args!("{numerator} of {denominator} is not a fraction between 0 and 1");
        Fault::value(at, why)
    })
}

/// Returns true if a filter replaces the path prefix that the rule matched.
pub(super) fn replaces_prefix(filters: &[Filter]) -> bool {
    filters.iter().any(|filter| {
        let path = match filter {
            Filter::Redirect(redirect) => &redirect.path,
            Filter::Rewrite(rewrite) => &rewrite.path,
            Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Mirror(_)
            | Filter::Cors(_)
            | Filter::ExternalAuth(_)
            | Filter::Fault(_) => &None,
        };
        matches!(path, Some(PathEdit::Prefix(_)))
    })
}
