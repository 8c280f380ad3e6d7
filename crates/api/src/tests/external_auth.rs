//! Authorization of requests by external servers.

use std::sync::Arc;

use http::HeaderName;
use weft_ir::{ExternalAuth, ExternalAuthProtocol, GatewayPort, HeaderSelection, HttpAuth};

use super::gateway::ports;

use super::*;

pub(super) fn http() -> Arc<ExternalAuth> {
    let name = HeaderName::from_static;
    Arc::new(ExternalAuth {
        server: Ok(ServicePort::new("auth", "server", 80)),
        protocol: ExternalAuthProtocol::Http(HttpAuth {
            path_prefix: "/check".into(),
            request_headers: vec![name("cookie"), name("x-forwarded-host")],
            response_headers: HeaderSelection::Named(vec![name("x-user")]),
        }),
        body_limit: 1024,
    })
}

pub(super) fn grpc() -> Arc<ExternalAuth> {
    Arc::new(ExternalAuth {
        server: Err("no such Service".into()),
        protocol: ExternalAuthProtocol::Grpc {
            request_headers: HeaderSelection::All,
        },
        body_limit: 0,
    })
}

/// Ports of HTTP and of HTTPS whose first listener has filters.
fn filtered() -> [GatewayPort; 2] {
    let [mut plain, mut secure, ..] = ports();
    let (Serving::Http(of_plain), Serving::Tls(of_secure)) =
        (&mut plain.serving, &mut secure.serving)
    else {
        panic!("other listeners")
    };
    of_plain[0].external_auth = vec![http(), grpc()];
    let TlsServing::Http { external_auth, .. } = &mut of_secure[0].serving else {
        panic!("no HTTPS")
    };
    *external_auth = vec![grpc(), http()];
    [plain, secure]
}

/// A proxy that does not know the fields refuses the port, and does not serve it without filters.
#[test]
fn ports_with_filters_are_of_fields_of_their_own() {
    use proto::gateway_port::Serving as Wire;
    for port in filtered() {
        let wire = encode::gateway_port(&port);
        let Some(proto::resource::Body::Port(of)) = &wire.body else {
            panic!("no port")
        };
        assert!(matches!(
            of.serving,
            Some(Wire::FilteredHttp(_) | Wire::FilteredTls(_))
        ));
        let (_, _, decoded) = decode::resource(wire).unwrap();
        assert_eq!(decoded, Resource::Port(port));
    }
}

/// A proxy with the filters of before does not have the route as it is now.
#[test]
fn filters_are_part_of_the_configuration_of_a_route() {
    for port in filtered() {
        let with = encode::route_digests(&port);
        let mut open = port;
        match &mut open.serving {
            Serving::Http(listeners) => listeners[0].external_auth.clear(),
            Serving::Tls(listeners) => {
                if let TlsServing::Http { external_auth, .. } = &mut listeners[0].serving {
                    external_auth.clear();
                }
            }
            _ => panic!("other listeners"),
        }
        assert_ne!(with, encode::route_digests(&open));
    }
}

#[test]
fn filters_that_are_not_understood_are_refused() {
    use proto::external_auth::Protocol;
    use proto::gateway_port::Serving as Wire;
    use proto::listener_filter::Kind;
    type Change = fn(&mut proto::ExternalAuth);
    type Break = fn(&mut proto::ListenerFilter, Change);
    let whole: Break = |filter, _| filter.kind = None;
    let inner: Break = |filter, breaks| {
        if let Some(Kind::ExternalAuth(of)) = &mut filter.kind {
            breaks(of);
        }
    };
    fn path(of: &mut proto::ExternalAuth, prefix: &str) {
        let Some(Protocol::Http(http)) = &mut of.protocol else {
            panic!("no HTTP")
        };
        http.path_prefix = prefix.into();
    }
    let rows: [(Break, Change, &str); 7] = [
        (whole, |_| {}, "listener.filters"),
        (inner, |of| of.server = None, "external_auth.server"),
        (inner, |of| of.protocol = None, "external_auth.protocol"),
        (
            inner,
            |of| of.body_limit = 65_537,
            "external_auth.body_limit",
        ),
        (inner, |of| path(of, "check"), "external_auth.path_prefix"),
        (inner, |of| path(of, "/a?b"), "external_auth.path_prefix"),
        (inner, |of| path(of, "/a b"), "external_auth.path_prefix"),
    ];
    for (breaks, change, field) in rows {
        let [port, _] = filtered();
        let mut wire = encode::gateway_port(&port);
        let Some(proto::resource::Body::Port(of)) = &mut wire.body else {
            panic!("no port")
        };
        let Some(Wire::FilteredHttp(listeners)) = &mut of.serving else {
            panic!("no listeners")
        };
        breaks(&mut listeners.listeners[0].filters[0], change);
        let refused = decode::resource(wire).unwrap_err().to_string();
        assert!(refused.contains(field), "{refused} should name {field}");
    }
}
