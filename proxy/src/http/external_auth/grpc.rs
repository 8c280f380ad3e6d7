//! Servers that speak Envoy's `envoy.service.auth.v3.Authorization`.
//!
//! Source: `envoy/service/auth/v3/external_auth.proto` and `attribute_context.proto`;
//! `PROTOCOL-HTTP2.md` of gRPC.

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version};
use tonic::Code;
use weft_api::ext_authz::attribute_context::{HttpRequest, Peer, Request};
use weft_api::ext_authz::check_response::HttpResponse;
use weft_api::ext_authz::header_value_option::HeaderAppendAction;
use weft_api::ext_authz::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
    OkHttpResponse, SocketAddress, Timestamp,
};
use weft_ir::{HeaderSelection, Identity};

use super::changes::{Changes, How, is_changeable};
use super::http::{grpc_denial, refuse_proxy};
use super::{AuthError, Decision, Place, read};
use crate::grpc::{frame_message, only_message};
use crate::http::errors;
use crate::http::filters::own_authority;
use crate::http::forwarded::REQUEST_ID;
use crate::http::response_body::{Response, ResponseBody, grpc_status};
use crate::upstream::UpstreamResponse;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Who sent the request.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) address: SocketAddr,
    pub(super) identity: Option<&'a Identity>,
}

/// Returns what the server is told of the request.
pub(super) fn check_request(
    selected: &HeaderSelection,
    head: &Parts,
    body: &Bytes,
    client: Client<'_>,
    place: Place<'_>,
) -> CheckRequest {
    let peer = |address: SocketAddr, identity: Option<&Identity>| Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_string(),
                port_value: u32::from(address.port()),
            }),
        }),
        principal: identity.map(ToString::to_string).unwrap_or_default(),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let text = |name: &HeaderName| head.headers.get(name).map(|value| lossy(value.as_bytes()));
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let http = HttpRequest {
        id: text(&REQUEST_ID).unwrap_or_default(),
        method: head.method.to_string(),
        headers: headers(selected, &head.headers).collect(),
        path: path.to_owned(),
        host: own_authority(head).unwrap_or_default().to_owned(),
        scheme: place.scheme.to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        size: i64::try_from(body.len()).unwrap_or(-1),
        protocol: match head.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        body: String::from_utf8(body.to_vec()).unwrap_or_default(),
        raw_body: body.clone(),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(client.address, client.identity)),
            destination: Some(peer(place.address, None)),
            request: Some(Request {
                time: Some(Timestamp {
                    seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
                    nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
                }),
                http: Some(http),
            }),
        }),
    }
}

/// Each name once, with all its values.
fn headers<'a>(
    selected: &'a HeaderSelection,
    headers: &'a HeaderMap,
) -> impl Iterator<Item = (String, String)> + 'a {
    let names = headers.keys().filter(|name| selected.contains(name));
    names.map(|name| {
        let values = headers.get_all(name).iter();
        let values: Vec<String> = values.map(|value| lossy(value.as_bytes())).collect();
        let separator = match name.as_str() {
            "cookie" => "; ",
            _ => ",",
        };
        (name.to_string(), values.join(separator))
    })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the call with its body.
pub(super) fn request(of: CheckRequest, server: &str) -> Result<(Parts, Bytes), AuthError> {
    let body = frame_message(&of).ok_or(AuthError::TooLarge)?;
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = Method::POST;
    head.uri = Uri::from_static(CHECK);
    head.version = Version::HTTP_2;
    // As `service.namespace:port`, which is a host name.
    let host = match server.split_once('/') {
        Some((namespace, rest)) => match rest.split_once(':') {
            Some((service, port)) => format!("{service}.{namespace}:{port}"),
            None => format!("{rest}.{namespace}"),
        },
        None => server.to_owned(),
    };
    let host = HeaderValue::try_from(host).map_err(|_| AuthError::Malformed("its name"))?;
    head.headers.insert(HOST, host);
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers.insert(CONTENT_TYPE, grpc);
    head.headers
        .insert(TE, HeaderValue::from_static("trailers"));
    Ok((head, body))
}

/// Reads the server's decision.
pub(super) async fn decision(
    upstream: UpstreamResponse,
    has_grpc_client: bool,
) -> Result<Decision, AuthError> {
    let UpstreamResponse { response, lease } = upstream;
    let (head, body) = response.into_parts();
    refuse_proxy(lease.endpoint().is_proxy(), &head.headers)?;
    if head.status != StatusCode::OK || !errors::is_grpc(&head.headers) {
        return Err(AuthError::Malformed("it is not gRPC"));
    }
    let (whole, trailers) = read(body).await?;
    let status = trailers
        .and_then(|trailers| grpc_status(&trailers))
        .or_else(|| grpc_status(&head.headers));
    lease.complete();
    match status {
        Some(Code::Ok) => {
            let message = only_message(whole);
            let message = message.ok_or(AuthError::Malformed("it is not one CheckResponse"))?;
            decide(message, has_grpc_client)
        }
        Some(code) => Err(AuthError::Status(code.into())),
        None => Err(AuthError::Malformed("it has no grpc-status")),
    }
}

/// A response that says nothing, or contradicts itself, is no decision.
fn decide(response: CheckResponse, has_grpc_client: bool) -> Result<Decision, AuthError> {
    let CheckResponse {
        status,
        http_response,
    } = response;
    match (status.map(|status| status.code), http_response) {
        (None | Some(0), Some(HttpResponse::OkResponse(ok))) => Ok(Decision::Allowed(changes(ok))),
        (Some(0), None) => Ok(Decision::Allowed(Changes::default())),
        (None, None) => Err(AuthError::Malformed("it has no status")),
        (Some(0), Some(_)) => Err(AuthError::Malformed("it denies with status OK")),
        (_, Some(HttpResponse::DeniedResponse(of) | HttpResponse::ErrorResponse(of))) => {
            Ok(Decision::Denied(denied(of, has_grpc_client)))
        }
        (Some(_), None | Some(HttpResponse::OkResponse(_))) => {
            let none = DeniedHttpResponse::default();
            Ok(Decision::Denied(denied(none, has_grpc_client)))
        }
    }
}

fn denied(of: DeniedHttpResponse, has_grpc_client: bool) -> Response {
    let DeniedHttpResponse {
        status,
        headers,
        body,
    } = of;
    let code = status.and_then(|status| u16::try_from(status.code).ok());
    let code = code.and_then(|code| StatusCode::from_u16(code).ok());
    let code = code.filter(|code| (200..600).contains(&code.as_u16()));
    let code = code.unwrap_or(StatusCode::FORBIDDEN);
    if has_grpc_client {
        return grpc_denial(code);
    }
    let mut response = Response::new(ResponseBody::bytes(body.into()));
    *response.status_mut() = code;
    for option in headers {
        if let Some((name, value, _)) = header(option, How::Set) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn changes(of: OkHttpResponse) -> Changes {
    let OkHttpResponse {
        headers,
        headers_to_remove,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = of;
    let each = |options: Vec<HeaderValueOption>, unsaid| {
        let headers = options.into_iter();
        headers.filter_map(move |of| header(of, unsaid)).collect()
    };
    let names = headers_to_remove.iter();
    let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    let set = query_parameters_to_set.into_iter();
    Changes {
        reserved: Vec::new(),
        remove: names.filter(is_changeable).collect(),
        headers: each(headers, How::Set),
        query_remove: query_parameters_to_remove,
        query_set: set.map(|of| (of.key, of.value)).collect(),
        of_response: each(response_headers_to_add, How::Append),
    }
}

/// `unsaid` is what the default of the message means. Headers that a server may not set are left
/// out.
fn header(of: HeaderValueOption, unsaid: How) -> Option<(HeaderName, HeaderValue, How)> {
    let how = match (&of.append, of.append_action()) {
        (Some(append), _) if append.value => How::Append,
        (Some(_), _) => How::Set,
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => unsaid,
        (None, HeaderAppendAction::AddIfAbsent) => How::IfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => How::Set,
        (None, HeaderAppendAction::OverwriteIfExists) => How::IfPresent,
    };
    let header = of.header?;
    let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
    let value = match header.raw_value.is_empty() {
        true => header.value.into_bytes(),
        false => header.raw_value.to_vec(),
    };
    let value = HeaderValue::from_bytes(&value).ok()?;
    is_changeable(&name).then_some((name, value, how))
}
