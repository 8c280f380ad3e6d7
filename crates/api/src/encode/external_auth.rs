//! Encodes the authorization of requests by external servers.

use std::sync::Arc;

use http::HeaderName;
use weft_ir::{ExternalAuth, ExternalAuthProtocol, HttpAuth};

use super::service_port;
use crate::proto;

pub(super) fn external_auth(of: &ExternalAuth) -> proto::ExternalAuth {
    use proto::external_auth::{Protocol, Server};
    let ExternalAuth {
        server,
        protocol,
        body_limit,
    } = of;
    let names = |of: &[HeaderName]| of.iter().map(ToString::to_string).collect();
    let server = match server {
        Ok(id) => Server::Service(service_port(id)),
        Err(reason) => Server::Invalid(reason.to_string()),
    };
    let protocol = match protocol {
        ExternalAuthProtocol::Http(HttpAuth {
            path_prefix,
            request_headers,
            response_headers,
        }) => Protocol::Http(proto::HttpAuth {
            path_prefix: path_prefix.clone(),
            request_headers: names(request_headers),
            response_headers: names(response_headers.names()),
        }),
        ExternalAuthProtocol::Grpc { request_headers } => Protocol::Grpc(proto::GrpcAuth {
            request_headers: names(request_headers.names()),
        }),
    };
    proto::ExternalAuth {
        server: Some(server),
        protocol: Some(protocol),
        body_limit: *body_limit,
    }
}

/// The filters of a listener.
pub(super) fn listener_filters(of: &[Arc<ExternalAuth>]) -> Vec<proto::ListenerFilter> {
    use proto::listener_filter::Kind;
    let filters = of.iter().map(|of| proto::ListenerFilter {
        kind: Some(Kind::ExternalAuth(external_auth(of))),
    });
    filters.collect()
}
