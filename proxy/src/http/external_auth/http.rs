//! Servers that speak HTTP: 200 lets a request pass, and every other response is the client's.
//!
//! Source: Gateway API v1.7.0, `HTTPAuthConfig`.

use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version};
use tokio::time::timeout;
use tonic::Code;
use weft_ir::{HeaderSelection, HttpAuth};

use super::changes::{Changes, How, is_changeable, is_forwardable};
use super::{AuthError, Decision, read};
use crate::http::errors::{self, GRPC_STATUS};
use crate::http::filters::own_authority;
use crate::http::headers;
use crate::http::response_body::{Response, ResponseBody};
use crate::upstream::UpstreamResponse;
use crate::wire::ERROR;

/// Time for the end of a response that has said all: then its connection is given up.
const DRAIN: Duration = Duration::from_millis(100);

/// Returns the request that presents `head` to the server.
pub(super) fn request(config: &HttpAuth, head: &Parts, length: usize) -> Result<Parts, AuthError> {
    let unsendable = |_| AuthError::Malformed("the path of the request");
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let path = format!("{}{slash}{path}", config.path_prefix);
    let (mut asked, ()) = http::Request::new(()).into_parts();
    asked.method = head.method.clone();
    asked.uri = Uri::from(PathAndQuery::try_from(path).map_err(unsendable)?);
    asked.version = Version::HTTP_11;
    if let Some(host) = own_authority(head).and_then(|host| HeaderValue::from_str(host).ok()) {
        asked.headers.insert(HOST, host);
    }
    let named = config.request_headers.iter();
    let named = named.filter(|name| is_forwardable(name));
    for name in named.chain([&AUTHORIZATION]) {
        for value in head.headers.get_all(name) {
            asked.headers.append(name, value.clone());
        }
    }
    asked.headers.insert(CONTENT_LENGTH, length.into());
    Ok(asked)
}

/// Reads the server's decision.
pub(super) async fn decision(
    config: &HttpAuth,
    upstream: UpstreamResponse,
    has_grpc_client: bool,
    method: &Method,
) -> Result<Decision, AuthError> {
    let UpstreamResponse { response, lease } = upstream;
    let (mut head, body) = response.into_parts();
    refuse_proxy(lease.endpoint().is_proxy(), &head.headers)?;
    headers::clean_response(&mut head.headers, true).map_err(AuthError::Malformed)?;
    head.headers.remove(UPGRADE);
    if head.status == StatusCode::OK {
        if matches!(timeout(DRAIN, read(body)).await, Ok(Ok(_))) {
            lease.complete();
        }
        return Ok(Decision::Allowed(allowed(config, head.headers)));
    }
    if head.status.is_informational() {
        return Err(AuthError::Malformed("its status"));
    }
    let (body, _) = read(body).await?;
    lease.complete();
    if *method != Method::HEAD {
        head.headers.remove(CONTENT_LENGTH);
    }
    let denied = match has_grpc_client {
        true => grpc_denial(head.status),
        false => {
            let mut denied = Response::new(ResponseBody::bytes(body));
            *denied.status_mut() = head.status;
            *denied.headers_mut() = head.headers;
            denied
        }
    };
    Ok(Decision::Denied(denied))
}

/// A proxy of the mesh answers in place of its server.
pub(super) fn refuse_proxy(is_proxy: bool, headers: &HeaderMap) -> Result<(), AuthError> {
    match headers.get(ERROR).filter(|_| is_proxy) {
        Some(words) => {
            let words = String::from_utf8_lossy(words.as_bytes()).into_owned();
            Err(AuthError::Refused(words))
        }
        None => Ok(()),
    }
}

fn allowed(config: &HttpAuth, response: HeaderMap) -> Changes {
    let copied = |name: &HeaderName| {
        is_changeable(name)
            && match &config.response_headers {
                // What describes the body of the response says nothing of that of the request.
                HeaderSelection::All => !name.as_str().starts_with("content-"),
                HeaderSelection::Named(names) => names.contains(name),
            }
    };
    let copies = response.iter().filter(|(name, _)| copied(name));
    Changes {
        reserved: config.response_headers.names().to_vec(),
        headers: copies
            .map(|(name, value)| (name.clone(), value.clone(), How::Set))
            .collect(),
        ..Changes::default()
    }
}

/// Returns the trailers-only response for a denial with this status.
pub(super) fn grpc_denial(status: StatusCode) -> Response {
    let code = match status.as_u16() {
        401 => Code::Unauthenticated,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::PermissionDenied,
    };
    let mut denied = Response::new(ResponseBody::empty());
    let headers = denied.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, i32::from(code).into());
    headers.insert(
        errors::GRPC_MESSAGE,
        HeaderValue::from_static("denied by the external authorization server"),
    );
    denied
}
