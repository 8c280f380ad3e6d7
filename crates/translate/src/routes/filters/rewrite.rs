//! Redirects and rewrites.

use std::sync::Arc;

use http::StatusCode;
use weft_ir::{PathEdit, Redirect, Rewrite};

use super::required;
use crate::conditions::Fault;
use crate::objects::{PathModifier, RequestRedirect, UrlRewrite, port_number};
use crate::routes::values::{header_value, hostname, unsupported};

pub(super) fn redirect(spec: &RequestRedirect, at: &str) -> Result<Redirect, Fault> {
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
        Some(other) => return Err(unsupported(&format!("{at}.scheme"), other, "http, https")),
    };
    let host = match host.as_deref() {
        None | Some("") => None,
        Some(host) => Some(Arc::from(hostname(host, &format!("{at}.hostname"))?)),
    };
    let port = match *port {
        None => None,
        Some(port) => Some(port_number(port).ok_or_else(|| {
            Fault::value(
                &format!("{at}.port"),
                format_args!("{port} is not a valid port"),
            )
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
            return Err(unsupported(
                &at,
                &other.to_string(),
                "301, 302, 303, 307, 308",
            ));
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

pub(super) fn rewrite(spec: &UrlRewrite, at: &str) -> Result<Rewrite, Fault> {
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
            let (path, at) = required(replace_full_path, at, "replaceFullPath")?;
            PathEdit::Full(new_path(path, &at)?)
        }
        "ReplacePrefixMatch" => {
            let (path, at) = required(replace_prefix_match, at, "replacePrefixMatch")?;
            PathEdit::Prefix(new_path(path, &at)?)
        }
        other => {
            let at = format!("{at}.type");
            return Err(unsupported(
                &at,
                other,
                "ReplaceFullPath, ReplacePrefixMatch",
            ));
        }
    };
    Ok(Some(edit))
}

/// An absolute path, or empty.
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
