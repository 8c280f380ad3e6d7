//! Filters of rules and backends. One that is not supported fails its rule: the specification forbids skipping it.

use std::sync::Arc;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode};
use weft_ir::{Filter, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite};

use super::backends::{Context, resolve_object};
use super::report::Report;
use super::values::{header_name, header_value, hostname, unknown};
use crate::conditions::Fault;
use crate::objects::port_number;
use crate::objects::{
    Fraction, GrpcFilter, HeaderFilter, HeaderValueSpec, HttpFilter, Lenient, PathModifier,
    RequestMirror, RequestRedirect, UrlRewrite,
};

mod cors;

/// Fields that say how a message is framed or a connection used: to change them is to forge requests.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What proxies of the mesh tell each other: an application or a client could be lied to with them.
const INTERNAL: [&str; 2] = ["weft-error", "weft-refused"];

/// The filters in their order, or the first thing that is wrong.
pub(super) fn http_filters(
    filters: &[Lenient<HttpFilter>],
    at: &str,
    context: &Context<'_>,
    report: &mut Report,
) -> Result<Vec<Filter>, Fault> {
    all(filters, at, |filter, at| {
        http_filter(filter, at, context, report)
    })
}

/// As [`http_filters`].
pub(super) fn grpc_filters(
    filters: &[Lenient<GrpcFilter>],
    at: &str,
    context: &Context<'_>,
    report: &mut Report,
) -> Result<Vec<Filter>, Fault> {
    all(filters, at, |filter, at| {
        grpc_filter(filter, at, context, report)
    })
}

/// `read`: a filter at its place; `None` where the specification has it left out.
fn all<F>(
    filters: &[Lenient<F>],
    at: &str,
    mut read: impl FnMut(&F, &str) -> Result<Option<Filter>, Fault>,
) -> Result<Vec<Filter>, Fault> {
    let mut translated = Vec::with_capacity(filters.len());
    for (place, filter) in filters.iter().enumerate() {
        let at = format!("{at}[{place}]");
        let filter = filter.as_ref().map_err(|why| Fault::value(&at, why))?;
        translated.extend(read(filter, &at)?);
    }
    refuse_combinations(&translated, at)?;
    Ok(translated)
}

fn http_filter(
    filter: &HttpFilter,
    at: &str,
    context: &Context<'_>,
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
        external_auth: _,
        extension_ref: _,
    } = filter;
    let common = Common {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
    };
    if let Some(read) = common.read(at, context, report) {
        return read;
    }
    let translated = match kind.as_str() {
        "RequestRedirect" => {
            let (spec, at) = given(request_redirect, at, "requestRedirect")?;
            redirect(spec, &at).map(Filter::Redirect)
        }
        "URLRewrite" => {
            let (spec, at) = given(url_rewrite, at, "urlRewrite")?;
            rewrite(spec, &at).map(Filter::Rewrite)
        }
        "CORS" => {
            let (spec, at) = given(cors, at, "cors")?;
            self::cors::cors(spec, &at).map(Filter::Cors)
        }
        other => Err(unknown(
            &format!("{at}.type"),
            other,
            "RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite, RequestMirror, CORS",
        )),
    };
    translated.map(Some)
}

fn grpc_filter(
    filter: &GrpcFilter,
    at: &str,
    context: &Context<'_>,
    report: &mut Report,
) -> Result<Option<Filter>, Fault> {
    let GrpcFilter {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        extension_ref: _,
    } = filter;
    let common = Common {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
    };
    common.read(at, context, report).unwrap_or_else(|| {
        Err(unknown(
            &format!("{at}.type"),
            kind,
            "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror",
        ))
    })
}

/// The types of filters that HTTPRoutes and GRPCRoutes share.
struct Common<'a> {
    kind: &'a str,
    request_header_modifier: &'a Option<HeaderFilter>,
    response_header_modifier: &'a Option<HeaderFilter>,
    request_mirror: &'a Option<RequestMirror>,
}

impl Common<'_> {
    /// `None`: of another type.
    fn read(
        &self,
        at: &str,
        context: &Context<'_>,
        report: &mut Report,
    ) -> Option<Result<Option<Filter>, Fault>> {
        let headers = |field, name| {
            let (headers, at) = given(field, at, name)?;
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
            "RequestMirror" => given(self.request_mirror, at, "requestMirror")
                .and_then(|(spec, at)| mirror(spec, &at, context, report)),
            _ => return None,
        };
        Some(read)
    }
}

/// The field that the filter's type asks for, and its place.
fn given<'a, T>(field: &'a Option<T>, at: &str, name: &str) -> Result<(&'a T, String), Fault> {
    let field = field
        .as_ref()
        .ok_or_else(|| Fault::value(at, format_args!("{name} is missing")))?;
    Ok((field, format!("{at}.{name}")))
}

/// Each kind once, but mirrors as often as they are wanted; a redirect and a rewrite never together.
fn refuse_combinations(filters: &[Filter], at: &str) -> Result<(), Fault> {
    let count = |is: fn(&Filter) -> bool| filters.iter().filter(|filter| is(filter)).count();
    let redirects = count(|filter| matches!(filter, Filter::Redirect(_)));
    let rewrites = count(|filter| matches!(filter, Filter::Rewrite(_)));
    let requests = count(|filter| matches!(filter, Filter::RequestHeaders(_)));
    let responses = count(|filter| matches!(filter, Filter::ResponseHeaders(_)));
    let cors = count(|filter| matches!(filter, Filter::Cors(_)));
    if redirects > 0 && rewrites > 0 {
        let why = "RequestRedirect and URLRewrite cannot be used together";
        return Err(Fault::filters(at, why));
    }
    if [redirects, rewrites, requests, responses, cors]
        .into_iter()
        .any(|times| times > 1)
    {
        return Err(Fault::filters(at, "a type of filter can be used only once"));
    }
    Ok(())
}

/// Of one name in one list the first entry counts; one name in two lists is invalid (specification of
/// `HTTPHeader.name` and `HTTPHeaderFilter`).
fn header_edit(spec: &HeaderFilter, at: &str) -> Result<HeaderEdit, Fault> {
    let HeaderFilter { set, add, remove } = spec;
    let edit = HeaderEdit {
        set: header_values(set, &format!("{at}.set"))?,
        add: header_values(add, &format!("{at}.add"))?,
        remove: header_names(remove, &format!("{at}.remove"))?,
    };
    only_set_host(&edit, at)?;
    let mut seen: Vec<&HeaderName> = Vec::new();
    let valued = edit.set.iter().chain(&edit.add).map(|(name, _)| name);
    for name in valued.chain(&edit.remove) {
        if seen.contains(&name) {
            let why = format_args!("{name} is in more than one of set, add and remove");
            return Err(Fault::value(at, why));
        }
        seen.push(name);
    }
    Ok(edit)
}

/// A request has exactly one Host (RFC 9112, 3.2), which can be another, but neither absent nor one more.
fn only_set_host(edit: &HeaderEdit, at: &str) -> Result<(), Fault> {
    let added = edit.add.iter().any(|(name, _)| *name == HOST);
    if added || edit.remove.contains(&HOST) {
        let list = if added { "add" } else { "remove" };
        let why = "a request has exactly one Host; set changes it";
        return Err(Fault::value(&format!("{at}.{list}"), why));
    }
    let set = edit.set.iter().find(|(name, _)| *name == HOST);
    let Some((_, value)) = set else {
        return Ok(());
    };
    let authority = Authority::try_from(value.as_bytes()).ok();
    match authority.filter(|authority| !authority.as_str().contains('@')) {
        Some(_) => Ok(()),
        None => {
            let why = format_args!("{value:?} is not a host, as example.com or example.com:8080");
            Err(Fault::value(&format!("{at}.set"), why))
        }
    }
}

fn header_values(
    entries: &[HeaderValueSpec],
    at: &str,
) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(entries.len());
    for (place, HeaderValueSpec { name, value }) in entries.iter().enumerate() {
        let name = editable(name, &format!("{at}[{place}].name"))?;
        let value = header_value(value, &format!("{at}[{place}].value"))?;
        if headers.iter().all(|(earlier, _)| *earlier != name) {
            headers.push((name, value));
        }
    }
    Ok(headers)
}

fn header_names(names: &[String], at: &str) -> Result<Vec<HeaderName>, Fault> {
    let mut headers = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let name = editable(name, &format!("{at}[{place}]"))?;
        if !headers.contains(&name) {
            headers.push(name);
        }
    }
    Ok(headers)
}

fn editable(name: &str, at: &str) -> Result<HeaderName, Fault> {
    let name = header_name(name, at)?;
    if FRAMING.contains(&name.as_str()) {
        let why = format_args!("{name} belongs to the connection and cannot be changed");
        return Err(Fault::value(at, why));
    }
    if INTERNAL.contains(&name.as_str()) {
        let why = format_args!("{name} is set by proxies alone and cannot be changed");
        return Err(Fault::value(at, why));
    }
    Ok(name)
}

fn redirect(spec: &RequestRedirect, at: &str) -> Result<Redirect, Fault> {
    let RequestRedirect {
        scheme,
        hostname: host,
        path,
        port,
        status_code,
    } = spec;
    let scheme = match scheme.as_deref() {
        None | Some("") => None,
        Some(scheme @ ("http" | "https")) => Some(Arc::from(scheme)),
        Some(other) => return Err(unknown(&format!("{at}.scheme"), other, "http, https")),
    };
    let host = match host.as_deref() {
        None | Some("") => None,
        Some(host) => Some(Arc::from(hostname(host, &format!("{at}.hostname"))?)),
    };
    let port = match *port {
        None => None,
        Some(port) => Some(port_number(port).ok_or_else(|| {
            Fault::value(&format!("{at}.port"), format_args!("{port} is not a port"))
        })?),
    };
    let code = match status_code.unwrap_or(302) {
        301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        other => {
            let at = format!("{at}.statusCode");
            return Err(unknown(&at, &other.to_string(), "301, 302, 303, 307, 308"));
        }
    };
    Ok(Redirect {
        scheme,
        host,
        port,
        path: path_edit(path.as_ref(), &format!("{at}.path"))?,
        code,
    })
}

fn rewrite(spec: &UrlRewrite, at: &str) -> Result<Rewrite, Fault> {
    let UrlRewrite {
        hostname: host,
        path,
    } = spec;
    let host = match host.as_deref() {
        None | Some("") => None,
        Some(host) => {
            let at = format!("{at}.hostname");
            Some(header_value(hostname(host, &at)?, &at)?)
        }
    };
    Ok(Rewrite {
        host,
        path: path_edit(path.as_ref(), &format!("{at}.path"))?,
    })
}

fn path_edit(spec: Option<&PathModifier>, at: &str) -> Result<Option<PathEdit>, Fault> {
    let Some(spec) = spec else { return Ok(None) };
    let PathModifier {
        kind,
        replace_full_path,
        replace_prefix_match,
    } = spec;
    let edit = match kind.as_str() {
        "ReplaceFullPath" => {
            let (path, at) = given(replace_full_path, at, "replaceFullPath")?;
            PathEdit::Full(new_path(path, &at)?)
        }
        "ReplacePrefixMatch" => {
            let (path, at) = given(replace_prefix_match, at, "replacePrefixMatch")?;
            PathEdit::Prefix(new_path(path, &at)?)
        }
        other => {
            let at = format!("{at}.type");
            return Err(unknown(&at, other, "ReplaceFullPath, ReplacePrefixMatch"));
        }
    };
    Ok(Some(edit))
}

/// An absolute path, or nothing.
fn new_path(path: &str, at: &str) -> Result<String, Fault> {
    let refuse = |why: &str| Err(Fault::value(at, format_args!("{path:?} {why}")));
    if !path.is_empty() && !path.starts_with('/') {
        return refuse("does not begin with /");
    }
    let legal = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#');
    if !path.bytes().all(legal) {
        return refuse("has characters that a path cannot have; escape them as %XX");
    }
    Ok(path.to_owned())
}

/// A backend that leads nowhere counts for ResolvedRefs alone: the rule goes on without the mirror (specification of
/// `HTTPRequestMirrorFilter.backendRef`).
fn mirror(
    spec: &RequestMirror,
    at: &str,
    context: &Context<'_>,
    report: &mut Report,
) -> Result<Option<Filter>, Fault> {
    let RequestMirror {
        backend_ref,
        percent,
        fraction,
    } = spec;
    let (numerator, denominator) = match (percent, fraction) {
        (None, None) => (1, 1),
        (Some(percent), None) => share(*percent, 100, &format!("{at}.percent"))?,
        (
            None,
            Some(Fraction {
                numerator,
                denominator,
            }),
        ) => share(
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
        Ok(Ok(to)) => Ok(Some(Filter::Mirror(Mirror {
            to,
            numerator,
            denominator,
        }))),
        Err(fault) => {
            report.unresolved.push(fault);
            Ok(None)
        }
    }
}

fn share(numerator: i64, denominator: i64, at: &str) -> Result<(u32, u32), Fault> {
    let parts = u32::try_from(numerator)
        .ok()
        .zip(u32::try_from(denominator).ok());
    parts
        .filter(|(part, whole)| *whole > 0 && part <= whole)
        .ok_or_else(|| {
            let why = format_args!("{numerator} of {denominator} is not between 0 and the whole");
            Fault::value(at, why)
        })
}

/// Whether some filter replaces the prefix that the rule's matches took.
pub(super) fn replaces_prefix(filters: &[Filter]) -> bool {
    filters.iter().any(|filter| {
        let path = match filter {
            Filter::Redirect(redirect) => &redirect.path,
            Filter::Rewrite(rewrite) => &rewrite.path,
            Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Mirror(_)
            | Filter::Cors(_) => &None,
        };
        matches!(path, Some(PathEdit::Prefix(_)))
    })
}
