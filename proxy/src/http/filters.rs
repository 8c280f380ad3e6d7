//! What the filters of a rule or a backend do to a request and its response. Pure, but for the
//! chance of faults.
//!
//! Source: Gateway API v1.6.3, `HTTPHeaderFilter`, `HTTPRequestRedirectFilter`,
//! `HTTPURLRewriteFilter` and `HTTPPathModifier`.

use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue, LOCATION};
use http::uri::{PathAndQuery, Uri};
use weft_ir::{Filter, HeaderEdit, PathEdit, PathMatch, Redirect, Rewrite};

use super::cors::{self, CorsDecision};
use super::errors::{Failure, ShortCircuit};
use super::fault;
use super::response_body::{Response, ResponseBody};

/// What filters need to know beside the request itself.
#[derive(Clone, Copy)]
pub struct FilterContext<'a> {
    /// The condition on the path that took the request.
    pub matched: Option<&'a PathMatch>,
    /// The scheme and the port that the request came to.
    pub scheme: &'static str,
    pub port: u16,
}

/// What filters ask for beside changes of the request.
#[derive(Default)]
pub struct FilterEffects {
    /// Headers that are added to the response, whoever makes it.
    pub added: Option<Box<HeaderMap>>,
    /// How long the request waits before it goes on.
    pub delay: Duration,
}

/// Applies the filters in their order. A redirect ends the request, and so do a preflight and an
/// injected answer.
pub fn on_request(
    filters: &[Filter],
    request: &mut http::request::Parts,
    context: FilterContext<'_>,
    effects: &mut FilterEffects,
) -> Result<(), ShortCircuit> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edit) => edit_headers(edit, &mut request.headers),
            Filter::Rewrite(rewrite) => apply_rewrite(rewrite, request, context)?,
            Filter::Redirect(redirect) => {
                let answer = answer_redirect(redirect, request, context)?;
                return Err(ShortCircuit::Response(Box::new(answer)));
            }
            Filter::Cors(of) => match cors::evaluate(of, request) {
                CorsDecision::AddHeaders(headers) => effects.added = Some(headers),
                CorsDecision::Respond(answer) => {
                    return Err(ShortCircuit::Response(Box::new(answer)));
                }
            },
            Filter::Fault(of) => {
                let random = &mut fastrand::Rng::new();
                fault::inject(of, &request.headers, &mut effects.delay, random)?;
            }
            // Mirrors are drawn after the filters, and get what these made of the request.
            // The server is asked where the filter stands, by the caller.
            Filter::ResponseHeaders(_) | Filter::Mirror(_) | Filter::ExternalAuth(_) => {}
        }
    }
    Ok(())
}

pub fn on_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(edit) = filter {
            edit_headers(edit, headers);
        }
    }
}

fn edit_headers(edit: &HeaderEdit, headers: &mut HeaderMap) {
    for (name, value) in &edit.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &edit.add {
        headers.append(name.clone(), value.clone());
    }
    for name in &edit.remove {
        headers.remove(name);
    }
}

fn apply_rewrite(
    rewrite: &Rewrite,
    request: &mut http::request::Parts,
    context: FilterContext<'_>,
) -> Result<(), Failure> {
    if let Some(host) = &rewrite.host {
        request.headers.insert(HOST, host.clone());
    }
    if let Some(edit) = &rewrite.path {
        let path = edit_path(edit, request.uri.path(), context.matched);
        let whole = with_query(path, request.uri.query());
        let mut parts = std::mem::take(&mut request.uri).into_parts();
        parts.path_and_query =
            Some(PathAndQuery::try_from(whole).map_err(|_| Failure::Rewrite("path"))?);
        request.uri = Uri::from_parts(parts).map_err(|_| Failure::Rewrite("path"))?;
    }
    Ok(())
}

fn answer_redirect(
    redirect: &Redirect,
    request: &http::request::Parts,
    context: FilterContext<'_>,
) -> Result<Response, Failure> {
    let own = own_authority(request).unwrap_or_default();
    let host = redirect
        .host
        .as_deref()
        .unwrap_or_else(|| without_port(own));
    let scheme = redirect.scheme.as_deref().unwrap_or(context.scheme);
    let well_known = if scheme == "https" { 443 } else { 80 };
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() {
        well_known
    } else {
        context.port
    });
    let path = match &redirect.path {
        Some(edit) => edit_path(edit, request.uri.path(), context.matched),
        None => request.uri.path().to_owned(),
    };
    let path = with_query(path, request.uri.query());
    let location = if port == well_known {
        format!("{scheme}://{host}{path}")
    } else {
        format!("{scheme}://{host}:{port}{path}")
    };
    let location =
        HeaderValue::try_from(location).map_err(|_| Failure::Rewrite("redirect location"))?;
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = redirect.code;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// The host that the request names, with its port.
pub fn own_authority(request: &http::request::Parts) -> Option<&str> {
    match request.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri.authority().map(|authority| authority.as_str()),
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn edit_path(edit: &PathEdit, path: &str, matched: Option<&PathMatch>) -> String {
    match edit {
        PathEdit::Full(full) => full.clone(),
        PathEdit::Prefix(replacement) => {
            let prefix = match matched {
                Some(PathMatch::Prefix(prefix) | PathMatch::Exact(prefix)) => prefix.as_str(),
                _ => "",
            };
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = path.strip_prefix(prefix).unwrap_or(path);
            let replacement = replacement.strip_suffix('/').unwrap_or(replacement);
            match (replacement, rest) {
                ("", "") => "/".to_owned(),
                _ => format!("{replacement}{rest}"),
            }
        }
    }
}

fn with_query(path: String, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, host: &str) -> http::request::Parts {
        let request = http::Request::builder().uri(uri).header(HOST, host);
        request.body(()).unwrap().into_parts().0
    }

    fn at<'a>(matched: Option<&'a PathMatch>) -> FilterContext<'a> {
        FilterContext {
            matched,
            scheme: "http",
            port: 8080,
        }
    }

    #[test]
    fn prefix_rewrite_follows_gateway_api() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo?a=b", "/foo", "/xyz", "/xyz?a=b"),
            ("/any", "/", "/xyz", "/xyz/any"),
        ] {
            let matched = PathMatch::Prefix(prefix.into());
            let rewrite = Filter::Rewrite(Rewrite {
                host: None,
                path: Some(PathEdit::Prefix(replacement.into())),
            });
            let mut request = parts(path, "shop");
            assert!(
                on_request(
                    &[rewrite],
                    &mut request,
                    at(Some(&matched)),
                    &mut FilterEffects::default()
                )
                .is_ok()
            );
            assert_eq!(
                request.uri.to_string(),
                expected,
                "{path} {prefix} {replacement}"
            );
        }
    }

    #[test]
    fn redirect_location_follows_gateway_api() {
        let plain = Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            code: http::StatusCode::FOUND,
        };
        for (redirect, expected) in [
            (plain.clone(), "http://shop:8080/a?b"),
            (
                Redirect {
                    scheme: Some("https".into()),
                    ..plain.clone()
                },
                "https://shop/a?b",
            ),
            (
                Redirect {
                    host: Some("x.org".into()),
                    port: Some(80),
                    ..plain.clone()
                },
                "http://x.org/a?b",
            ),
            (
                Redirect {
                    scheme: Some("https".into()),
                    port: Some(80),
                    ..plain.clone()
                },
                "https://shop:80/a?b",
            ),
            (
                Redirect {
                    path: Some(PathEdit::Full("/z".into())),
                    ..plain
                },
                "http://shop:8080/z?b",
            ),
        ] {
            let mut request = parts("/a?b", "shop:9000");
            let stop = on_request(
                &[Filter::Redirect(redirect)],
                &mut request,
                at(None),
                &mut FilterEffects::default(),
            );
            let Err(ShortCircuit::Response(answer)) = stop else {
                panic!("no redirect")
            };
            assert_eq!(answer.status(), 302);
            assert_eq!(answer.headers()[LOCATION], expected);
        }
    }

    #[test]
    fn header_filter_sets_adds_and_removes() {
        let name = http::HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edit = HeaderEdit {
            set: vec![(name("x-a"), value("1")), (HOST, value("other"))],
            add: vec![(name("x-b"), value("2"))],
            remove: vec![name("x-c")],
        };
        let mut request = parts("/", "shop");
        for (header, old) in [("x-a", "0"), ("x-a", "9"), ("x-b", "1"), ("x-c", "1")] {
            request.headers.append(name(header), value(old));
        }
        assert!(
            on_request(
                &[Filter::RequestHeaders(edit.clone())],
                &mut request,
                at(None),
                &mut FilterEffects::default()
            )
            .is_ok()
        );
        let seen = |header| -> Vec<_> { request.headers.get_all(header).iter().collect() };
        assert_eq!(seen("x-a"), ["1"]);
        assert_eq!(seen("x-b"), ["1", "2"]);
        assert_eq!(seen("host"), ["other"]);
        assert!(seen("x-c").is_empty());
        let mut headers = HeaderMap::new();
        on_response(&[Filter::RequestHeaders(edit)], &mut headers);
        assert!(headers.is_empty());
    }
}
