//! The filter ExternalAuth, of rules, backends and listeners.
//!
//! Source: Gateway API v1.7.0, `HTTPExternalAuthFilter` and its parts. A filter whose server cannot
//! be resolved stays in place and fails the requests that reach it.

use std::sync::Arc;

use http::HeaderName;
use weft_ir::{ExternalAuth, ExternalAuthProtocol, HeaderSelection, HttpAuth, ServicePort};

use super::headers::{copyable, each_name};
use crate::conditions::Fault;
use crate::objects::{
    BackendObjectRef, ExternalAuthFilter, ForwardBody, GrpcAuthConfig, HttpAuthConfig,
};
use crate::routes::values::{header_name, unsupported};

/// `server` resolves the backend, and reports if it cannot.
pub(super) fn external_auth(
    spec: &ExternalAuthFilter,
    at: &str,
    server: impl FnOnce(&BackendObjectRef, &str) -> Result<ServicePort, Arc<str>>,
) -> Result<Arc<ExternalAuth>, Fault> {
    let ExternalAuthFilter {
        protocol,
        backend_ref,
        grpc,
        http,
        forward_body,
    } = spec;
    let only = |other: &str| {
        Fault::value(
            at,
            format_args!("{other} must not be set with protocol {protocol}"),
        )
    };
    let protocol = match (protocol.as_str(), grpc, http) {
        ("HTTP", Some(_), _) => return Err(only("grpc")),
        ("GRPC", _, Some(_)) => return Err(only("http")),
        ("HTTP", None, config) => {
            let none = HttpAuthConfig::default();
            let config = config.as_ref().unwrap_or(&none);
            ExternalAuthProtocol::Http(http_auth(config, &format!("{at}.http"))?)
        }
        ("GRPC", config, None) => {
            let none = GrpcAuthConfig::default();
            let GrpcAuthConfig { allowed_headers } = config.as_ref().unwrap_or(&none);
            let at = format!("{at}.grpc.allowedHeaders");
            ExternalAuthProtocol::Grpc {
                request_headers: HeaderSelection::of(each_name(allowed_headers, &at, header_name)?),
            }
        }
        (other, ..) => return Err(unsupported(&format!("{at}.protocol"), other, "HTTP, GRPC")),
    };
    Ok(Arc::new(ExternalAuth {
        body_limit: body_limit(forward_body.as_ref(), &format!("{at}.forwardBody"))?,
        protocol,
        server: server(backend_ref, &format!("{at}.backendRef")),
    }))
}

fn http_auth(spec: &HttpAuthConfig, at: &str) -> Result<HttpAuth, Fault> {
    let HttpAuthConfig {
        path,
        allowed_headers,
        allowed_response_headers,
    } = spec;
    let response: Vec<HeaderName> = each_name(
        allowed_response_headers,
        &format!("{at}.allowedResponseHeaders"),
        copyable,
    )?;
    Ok(HttpAuth {
        path_prefix: path_prefix(path, &format!("{at}.path"))?,
        request_headers: each_name(
            allowed_headers,
            &format!("{at}.allowedHeaders"),
            header_name,
        )?,
        response_headers: HeaderSelection::of(response),
    })
}

/// Servers may read dot segments and empty ones in more than one way, so that the server would
/// decide on another path than the one that is named here.
fn path_prefix(path: &str, at: &str) -> Result<String, Fault> {
    let prefix = path.strip_suffix('/').unwrap_or(path);
    if prefix.is_empty() {
        return Ok(String::new());
    }
    let prefix = match prefix.starts_with('/') {
        true => prefix.to_owned(),
        false => format!("/{prefix}"),
    };
    let mut segments = prefix.split('/').skip(1);
    let is_plain = |of: &str| !of.is_empty() && !is_dots(of) && is_path_segment(of.as_bytes());
    match segments.all(is_plain) {
        true => Ok(prefix),
        false => {
            let why = format_args!(
                "{path:?} is not a path without empty segments, dot segments and query"
            );
            Err(Fault::value(at, why))
        }
    }
}

/// Returns true for `.` and `..`, also percent-encoded.
fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    matches!(plain.as_str(), "." | "..")
}

/// RFC 3986, 3.3.
fn is_path_segment(mut bytes: &[u8]) -> bool {
    while let [first, rest @ ..] = bytes {
        bytes = match (first, rest) {
            (b'%', [high, low, rest @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                rest
            }
            (of, rest) if of.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(of) => rest,
            _ => return false,
        };
    }
    true
}

fn body_limit(spec: Option<&ForwardBody>, at: &str) -> Result<u32, Fault> {
    let Some(ForwardBody { max_size }) = spec else {
        return Ok(0);
    };
    let most = ExternalAuth::MAX_BODY;
    let size = u32::try_from(*max_size).ok().filter(|size| *size <= most);
    size.ok_or_else(|| {
        let why = format_args!("{max_size} is not between 0 and {most} bytes");
        Fault::value(&format!("{at}.maxSize"), why)
    })
}
