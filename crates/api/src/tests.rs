//! Encoded resources decode to the same value; invalid ones are rejected with the field.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_ir::*;

use crate::{Resource, decode, encode, proto};

mod authorization;
mod balancing;
mod bytes;
mod external_auth;
mod fault;
mod gateway;
mod health;
mod limits;

fn everything() -> Destination {
    let pair = |name: &'static str| (HeaderName::from_static(name), HeaderValue::from_static("1"));
    let edit = HeaderEdit {
        set: vec![pair("a")],
        add: vec![pair("b")],
        remove: vec![HeaderName::from_static("c")],
    };
    let pattern = || Pattern::new("v[0-9]+").unwrap();
    let matches = [
        PathMatch::Exact("/a".into()),
        PathMatch::Prefix("/b".into()),
        PathMatch::Regex(pattern()),
        PathMatch::GrpcMethod("Get".into()),
    ]
    .map(|path| RequestMatch {
        path: Some(path),
        headers: vec![HeaderMatch {
            name: HeaderName::from_static("x"),
            value: ValueMatch::Regex(pattern()),
        }],
        query: vec![QueryMatch {
            name: "q".into(),
            value: ValueMatch::Exact("1".into()),
        }],
        method: Some(Method::GET),
        invalid: true,
    });
    let redirect = Redirect {
        scheme: Some("https".into()),
        host: Some("shop".into()),
        port: Some(8443),
        path: Some(PathEdit::Full("/".into())),
        code: StatusCode::MOVED_PERMANENTLY,
    };
    let rewrite = Rewrite {
        host: Some(HeaderValue::from_static("shop")),
        path: Some(PathEdit::Prefix("/v2".into())),
    };
    let rule = Rule {
        route: RouteId {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "reviews".into(),
        },
        index: 3,
        name: Some("canary".into()),
        matches: matches.into(),
        filters: vec![
            Filter::RequestHeaders(edit.clone()),
            Filter::ResponseHeaders(edit),
            Filter::Redirect(redirect),
            Filter::Rewrite(rewrite),
            Filter::Mirror(Mirror {
                to: ServicePort::new("shop", "shadow", 80),
                fraction: Fraction::new(1, 3).unwrap(),
            }),
            Filter::Cors(Cors {
                origins: vec![
                    OriginPattern::Any,
                    "https://*.shop.example".parse().unwrap(),
                ],
                credentials: true,
                methods: Allowed::Any,
                headers: Allowed::These(HeaderValue::from_static("x-a, x-b")),
                expose: Allowed::Unsaid,
                max_age: 5,
            }),
            Filter::ExternalAuth(external_auth::grpc()),
            Filter::ExternalAuth(external_auth::http()),
            Filter::Fault(fault::injection()),
            Filter::Fault(fault::abort()),
        ],
        backends: vec![
            WeightedBackend {
                weight: 9,
                backend: Backend::Service(ServicePort::new("shop", "v1", 80)),
                filters: vec![Filter::RequestHeaders(HeaderEdit::default())],
            },
            WeightedBackend {
                weight: 1,
                backend: Backend::Invalid("no such Service".into()),
                filters: vec![],
            },
        ],
        timeouts: Timeouts {
            request: TimeLimit::Within(Duration::from_millis(1500)),
            backend: TimeLimit::Unlimited,
        },
        retry: Some(Retry {
            codes: vec![StatusCode::BAD_GATEWAY],
            attempts: 2,
            backoff: Duration::from_millis(25),
        }),
        failure: Some("a filter is not supported".into()),
    };
    let service = Service {
        id: ServicePort::new("shop", "reviews", 80),
        protocol: Protocol::Http1,
        routing: Routing::Http(vec![rule.into()]),
    };
    Destination {
        address: "[fd00::1]:80".parse().unwrap(),
        target: Target::Service(service.into()),
    }
}

fn connections() -> [Routing; 2] {
    let rule = ConnectionRule {
        route: RouteId {
            kind: RouteKind::Tls,
            namespace: "shop".into(),
            name: "db".into(),
        },
        index: 0,
        name: Some("all".into()),
        backends: vec![WeightedBackend {
            weight: 3,
            backend: Backend::Service(ServicePort::new("shop", "db", 5432)),
            filters: vec![],
        }],
    };
    let hostnames = ["db.example.com", "*.example.com"];
    let mut of_tcp = rule.clone();
    of_tcp.route.kind = RouteKind::Tcp;
    let of_tls = TlsRule {
        hostnames: hostnames.map(|name| name.parse().unwrap()).into(),
        rule,
    };
    [Routing::Tls(vec![of_tls]), Routing::Tcp(of_tcp)]
}

fn pod() -> Endpoint {
    let id = Identity::new(
        TrustDomain::new("cluster.local").unwrap(),
        "shop",
        "reviews",
    )
    .unwrap();
    Endpoint {
        address: "10.0.0.1:9080".parse().unwrap(),
        identity: Some(id),
    }
}

fn import(name: &str) -> ServicePort {
    ServicePort {
        service: ServiceId::import("shop", name),
        port: 80,
    }
}

#[test]
fn service_of_an_unknown_kind_is_rejected() {
    let set = EndpointSet::new(import("v1"), Protocol::Http1, vec![pod()]);
    let mut wire = encode::endpoints(&set);
    let Some(proto::resource::Body::Endpoints(endpoints)) = &mut wire.body else {
        panic!("no endpoints")
    };
    // As it appears to a reader that does not know the kind.
    endpoints.id.as_mut().unwrap().name = None;
    let refused = decode::resource(wire).unwrap_err().to_string();
    assert!(refused.contains("service.name"), "{refused}");
}

#[test]
fn encoded_resources_decode_to_the_same_value() {
    let imported = EndpointSet::new(import("v1"), Protocol::Http1, vec![pod()]);
    let mut set = EndpointSet::new(
        ServicePort::new("shop", "v1", 80),
        Protocol::Grpc,
        vec![pod()],
    );
    let hints = Hints {
        nodes: ["node1".to_owned()].into(),
        zones: ["a".to_owned(), "b".to_owned()].into(),
    };
    set.choice = Choice {
        hints: [(pod().address, hints)].into(),
        affinity: Some(Duration::from_secs(10_800)),
    };
    let workload = Workload {
        identity: pod().identity.unwrap(),
        mode: Mode::Permissive,
        port_modes: [(8080, Mode::Strict), (9090, Mode::Permissive)].into(),
        probes: vec![
            Probe {
                port: 8080,
                asks: ProbeRequest::Get("/healthz?full".into()),
            },
            Probe {
                port: 9090,
                asks: ProbeRequest::GrpcHealth,
            },
        ],
        locality: Locality {
            node: "node1".into(),
            zone: "a".into(),
        },
        host_ips: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        limits: [(80, limits::waiting()), (u16::MAX, limits::failing())].into(),
    };
    let roots = TrustedRoots {
        signer: vec![1, 2],
        additional: vec![vec![3], vec![4]],
    };
    let to_pod = Destination {
        address: pod().address,
        target: Target::Pod(pod()),
    };
    let to_nowhere = Destination {
        address: pod().address,
        target: Target::Unknown,
    };
    let [by_name, by_weight] = connections().map(|routing| Destination {
        address: pod().address,
        target: Target::Service(
            Service {
                id: ServicePort::new("shop", "db", 5432),
                protocol: Protocol::Detect,
                routing,
            }
            .into(),
        ),
    });
    for (wire, whole) in [
        (
            encode::destination(&everything()),
            Resource::Destination(everything()),
        ),
        (encode::destination(&to_pod), Resource::Destination(to_pod)),
        (
            encode::destination(&to_nowhere),
            Resource::Destination(to_nowhere),
        ),
        (
            encode::destination(&by_name),
            Resource::Destination(by_name),
        ),
        (
            encode::destination(&by_weight),
            Resource::Destination(by_weight),
        ),
        (encode::endpoints(&set), Resource::Endpoints(set)),
        (encode::endpoints(&imported), Resource::Endpoints(imported)),
        (encode::workload(&workload), Resource::Workload(workload)),
        (encode::roots(&roots), Resource::Roots(roots)),
    ] {
        let (key, version, decoded) = decode::resource(wire.clone()).unwrap();
        assert_eq!(decoded, whole);
        assert_eq!((key.to_string(), version), (wire.key, wire.version));
    }
}

#[test]
fn version_depends_on_the_content_only() {
    let mut other = everything();
    assert_eq!(
        encode::destination(&everything()).version,
        encode::destination(&other).version
    );
    other.target = Target::Unknown;
    assert_ne!(
        encode::destination(&everything()).version,
        encode::destination(&other).version
    );
}

#[test]
fn invalid_resources_are_rejected_with_the_field() {
    type Break = fn(&mut proto::Rule);
    let rows: [(Break, &str); 7] = [
        (|r| r.route = None, "rule.route"),
        (|r| r.matches[0].method = "G ET".into(), "match.method"),
        (
            |r| r.matches[0].path = Some(proto::PathMatch { kind: None }),
            "match.path",
        ),
        (
            |r| r.matches[0].headers[0].name = "a b".into(),
            "header name",
        ),
        (|r| r.filters[0].kind = None, "filter"),
        (|r| r.backends[0].backend = None, "backend"),
        (
            |r| {
                r.matches[0].path = Some(proto::PathMatch {
                    kind: Some(proto::path_match::Kind::Regex("(".into())),
                });
            },
            "match.path",
        ),
    ];
    for (breaks, field) in rows {
        let mut wire = encode::destination(&everything());
        let Some(proto::resource::Body::Destination(destination)) = &mut wire.body else {
            panic!("no destination")
        };
        let Some(proto::destination::Target::Service(service)) = &mut destination.target else {
            panic!("no service")
        };
        let Some(proto::service::Routing::Http(routing)) = &mut service.routing else {
            panic!("no rules")
        };
        breaks(&mut routing.rules[0]);
        let error = decode::resource(wire).unwrap_err().to_string();
        assert!(error.contains(field), "{error} should name {field}");
    }
}

#[test]
fn roots_without_a_signer_are_rejected() {
    let mut wire = encode::roots(&TrustedRoots {
        signer: vec![1],
        additional: vec![],
    });
    wire.body = Some(proto::resource::Body::Roots(proto::Roots::default()));
    let error = decode::resource(wire).unwrap_err().to_string();
    assert!(error.contains("roots.signer"), "{error}");
}

#[test]
fn content_that_does_not_match_the_key_is_rejected() {
    let mut wire = encode::destination(&everything());
    wire.key = "workload".into();
    assert!(
        decode::resource(wire)
            .unwrap_err()
            .to_string()
            .contains("workload")
    );
}

#[test]
fn invalid_host_name_is_rejected() {
    let [routing, _] = connections();
    let mut wire = encode::destination(&Destination {
        address: pod().address,
        target: Target::Service(
            Service {
                id: ServicePort::new("shop", "db", 5432),
                protocol: Protocol::Tls,
                routing,
            }
            .into(),
        ),
    });
    let Some(proto::resource::Body::Destination(destination)) = &mut wire.body else {
        panic!("no destination")
    };
    let Some(proto::destination::Target::Service(service)) = &mut destination.target else {
        panic!("no service")
    };
    let Some(proto::service::Routing::Tls(routing)) = &mut service.routing else {
        panic!("no TLS routing")
    };
    routing.rules[0].hostnames[1] = "*.*".into();
    let refused = decode::resource(wire).unwrap_err().to_string();
    assert!(refused.contains("tls_rule.hostnames"), "{refused}");
}

#[test]
fn an_unknown_mode_fails_closed() {
    let permissive = Workload::new(pod().identity.unwrap(), Mode::Permissive);
    let mut wire = encode::workload(&permissive);
    let Some(proto::resource::Body::Workload(workload)) = &mut wire.body else {
        panic!("no workload")
    };
    workload.mode = 77;
    let (_, _, decoded) = decode::resource(wire).unwrap();
    assert!(matches!(
        decoded,
        Resource::Workload(Workload {
            mode: Mode::Strict,
            ..
        })
    ));
}

/// One that knows no modes of ports reads the first field alone.
#[test]
fn proxy_of_an_earlier_version_refuses_plain_text_of_a_strict_port() {
    for (mode, port, expected) in [
        (Mode::Permissive, Mode::Strict, Mode::Strict),
        (Mode::Strict, Mode::Permissive, Mode::Strict),
        (Mode::Permissive, Mode::Permissive, Mode::Permissive),
    ] {
        let mut workload = Workload::new(pod().identity.unwrap(), mode);
        workload.port_modes = [(80, port)].into();
        let mut wire = encode::workload(&workload);
        let Some(proto::resource::Body::Workload(body)) = &mut wire.body else {
            panic!("no workload")
        };
        body.other_ports = 0;
        body.port_modes.clear();
        let (_, _, decoded) = decode::resource(wire).unwrap();
        let Resource::Workload(decoded) = decoded else {
            panic!("no workload")
        };
        assert_eq!(decoded.mode_at(80), expected, "{mode:?} {port:?}");
    }
}

#[test]
fn invalid_node_address_is_refused() {
    let workload = Workload::new(pod().identity.unwrap(), Mode::Strict);
    let mut wire = encode::workload(&workload);
    let Some(proto::resource::Body::Workload(workload)) = &mut wire.body else {
        panic!("no workload")
    };
    workload.host_ips.push("node1".into());
    let refused = decode::resource(wire).unwrap_err().to_string();
    assert!(refused.contains("workload.host_ips"), "{refused}");
}

/// Limits depend on it: no encoding may be larger.
#[test]
fn wire_size_is_an_upper_bound_of_the_encoding() {
    let Target::Service(service) = everything().target else {
        panic!("no service")
    };
    let Routing::Http(rules) = &service.routing else {
        panic!("no rules")
    };
    let encoded = |routing| {
        let service = Service {
            routing,
            ..service.as_ref().clone()
        };
        let target = Target::Service(service.into());
        let address = "10.0.0.1:80".parse().unwrap();
        prost::Message::encoded_len(&encode::destination(&Destination { address, target }))
    };
    let empty = encoded(Routing::Http(vec![]));
    let [Routing::Tls(tls), Routing::Tcp(bytes)] = connections() else {
        panic!("other connections")
    };
    for (bound, routing) in [
        (rules[0].wire_size(), Routing::Http(rules.clone())),
        (
            tls.iter().map(TlsRule::wire_size).sum(),
            Routing::Tls(tls.clone()),
        ),
        (bytes.wire_size(), Routing::Tcp(bytes.clone())),
    ] {
        let size = encoded(routing) - empty;
        assert!(size <= bound && bound < 4 * size, "{size} of {bound}");
    }
    let patterns: Vec<&str> = rules[0].patterns().map(Pattern::as_str).collect();
    assert!(!patterns.is_empty());
}
