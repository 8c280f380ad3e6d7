//! Decodes the authorization of requests by external servers.

use std::sync::Arc;

use http::HeaderName;
use http::uri::PathAndQuery;
use weft_ir::{ExternalAuth, ExternalAuthProtocol, HeaderSelection, HttpAuth};

use super::rules::header_name;
use super::{DecodeError, Decoded, all, invalid, service_port};
use crate::proto;

pub(super) fn external_auth(wire: proto::ExternalAuth) -> Decoded<Arc<ExternalAuth>> {
    use proto::external_auth::{Protocol, Server};
    let proto::ExternalAuth {
        server,
        protocol,
        body_limit,
    } = wire;
    let server = match server.ok_or(DecodeError::Absent("external_auth.server"))? {
        Server::Service(id) => Ok(service_port(id)?),
        Server::Invalid(reason) => Err(reason.into()),
    };
    let protocol = match protocol.ok_or(DecodeError::Absent("external_auth.protocol"))? {
        Protocol::Http(wire) => ExternalAuthProtocol::Http(http(wire)?),
        Protocol::Grpc(proto::GrpcAuth { request_headers }) => ExternalAuthProtocol::Grpc {
            request_headers: HeaderSelection::of(names(request_headers)?),
        },
    };
    if body_limit > ExternalAuth::MAX_BODY {
        return Err(invalid("external_auth.body_limit")(&body_limit));
    }
    Ok(Arc::new(ExternalAuth {
        server,
        protocol,
        body_limit,
    }))
}

fn http(wire: proto::HttpAuth) -> Decoded<HttpAuth> {
    let proto::HttpAuth {
        path_prefix,
        request_headers,
        response_headers,
    } = wire;
    let is_path = path_prefix.starts_with('/') && path_prefix.parse::<PathAndQuery>().is_ok();
    if !path_prefix.is_empty() && (!is_path || path_prefix.contains(['?', '#'])) {
        return Err(invalid("external_auth.path_prefix")(&path_prefix));
    }
    Ok(HttpAuth {
        path_prefix,
        request_headers: names(request_headers)?,
        response_headers: HeaderSelection::of(names(response_headers)?),
    })
}

fn names(wire: Vec<String>) -> Decoded<Vec<HeaderName>> {
    all(wire, |name| header_name(&name))
}

/// A filter that is not known is refused: without it, the listener would let more pass.
pub(super) fn listener_filters(
    wire: Vec<proto::ListenerFilter>,
) -> Decoded<Vec<Arc<ExternalAuth>>> {
    use proto::listener_filter::Kind;
    all(wire, |filter| {
        match filter.kind.ok_or(DecodeError::Absent("listener.filters"))? {
            Kind::ExternalAuth(wire) => external_auth(wire),
        }
    })
}
