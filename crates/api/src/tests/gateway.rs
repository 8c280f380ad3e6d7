//! Encoding and decoding of gateways and of TLS to backends.

use std::sync::Arc;

use prost::Message;
use weft_ir::*;

use super::{connections, everything, pod};
use crate::{Resource, decode, encode, proto};

fn rules() -> Vec<Arc<Rule>> {
    let Target::Service(service) = everything().target else {
        panic!("no service")
    };
    let Routing::Http(rules) = &service.routing else {
        panic!("no rules")
    };
    rules.clone()
}

fn pair() -> KeyPair {
    KeyPair {
        chain: b"chain".as_slice().into(),
        key: b"key".as_slice().into(),
    }
}

fn tls() -> ServerTls {
    ServerTls {
        certificates: vec![pair(), pair()],
        clients: Some(ClientValidation {
            roots: b"roots".as_slice().into(),
            insecure_fallback: true,
        }),
    }
}

pub(super) fn ports() -> [GatewayPort; 4] {
    let hosts = || {
        [Some("*.example.com".parse().unwrap()), None]
            .map(|host| VirtualHost {
                host,
                rules: rules(),
            })
            .to_vec()
    };
    let [Routing::Tls(by_name), Routing::Tcp(bytes)] = connections() else {
        panic!("other connections")
    };
    let http = HttpListener {
        name: "web".into(),
        hostname: None,
        external_auth: Vec::new(),
        hosts: hosts(),
    };
    let terminated = TlsServing::Http {
        tls: tls(),
        external_auth: Vec::new(),
        hosts: hosts(),
    };
    let within = TlsServing::Terminate {
        tls: ServerTls {
            clients: None,
            ..tls()
        },
        rules: by_name.clone(),
    };
    let passed = TlsServing::Passthrough { rules: by_name };
    let listeners = [terminated, within, passed].map(|serving| TlsListener {
        name: "secure".into(),
        hostname: Some("shop.example.com".parse().unwrap()),
        serving,
    });
    let mut datagrams = bytes.clone();
    datagrams.route.kind = RouteKind::Udp;
    let stream = |rule| StreamListener {
        name: "bytes".into(),
        rule,
    };
    [
        (80, Serving::Http(vec![http])),
        (443, Serving::Tls(listeners.into())),
        (5432, Serving::Tcp(stream(Some(bytes)))),
        (53, Serving::Udp(stream(Some(datagrams)))),
    ]
    .map(|(port, serving)| GatewayPort {
        port,
        serving,
        services: vec![
            ServiceRules {
                id: ServicePort::new("shop", "reviews", 80),
                rules: rules(),
            }
            .into(),
        ],
    })
}

fn set() -> EndpointSet {
    EndpointSet {
        id: ServicePort::new("shop", "v1", 443),
        protocol: Protocol::Http1,
        endpoints: vec![pod()],
        tls: Some(
            BackendTls {
                hostname: "v1.example.com".into(),
                alternative_names: vec![
                    AlternativeName::Dns("*.example.com".into()),
                    AlternativeName::Uri("spiffe://example.com/v1".into()),
                ],
                roots: BackendRoots::Pem(b"roots".as_slice().into()),
            }
            .into(),
        ),
        choice: Choice::default(),
        traffic: None,
    }
}

fn with_policy() -> EndpointSet {
    let seconds = std::time::Duration::from_secs;
    let outliers = OutlierDetection {
        consecutive_5xx: std::num::NonZeroU32::new(5),
        consecutive_gateway_errors: None,
        ejection_time: EjectionTime::new(seconds(30), seconds(300)).unwrap(),
        max_ejection_percent: Percent::new(50).unwrap(),
        panic_threshold: Percent::new(100).unwrap(),
    };
    EndpointSet {
        traffic: Some(Arc::new(TrafficPolicy {
            outlier_detection: Some(outliers),
            retry_budget: Some(RetryBudget {
                percent: Percent::new(0).unwrap(),
                min_retries: u32::MAX,
                interval: BudgetInterval::new(seconds(3600)).unwrap(),
                answers_503: true,
            }),
            limits: Some(super::limits::limits()),
            timeouts: Some(PolicyTimeouts {
                requests: Timeouts {
                    request: TimeLimit::Within(seconds(2)),
                    backend: TimeLimit::Within(seconds(1)),
                },
                connect: ConnectTimeout::new(seconds(5)),
            }),
            retries: Some(Retries {
                retry: Retry {
                    codes: vec![http::StatusCode::BAD_GATEWAY],
                    attempts: 0,
                    backoff: Retry::LEAST_BACKOFF,
                },
                grpc_statuses: GrpcStatuses::default().with(16).unwrap(),
            }),
            ..TrafficPolicy::default()
        })),
        ..set()
    }
}

#[test]
fn invalid_traffic_policies_are_rejected_with_the_field() {
    use proto::resource::Body;
    type Change = fn(&mut proto::OutlierDetection);
    let changes: [(&str, Change); 5] = [
        ("base_ejection_milliseconds", |of| {
            of.base_ejection_milliseconds = 0
        }),
        ("base_ejection_milliseconds", |of| {
            of.max_ejection_milliseconds = 1
        }),
        ("base_ejection_milliseconds", |of| {
            of.max_ejection_milliseconds = u32::MAX
        }),
        ("max_ejection_percent", |of| of.max_ejection_percent = 101),
        ("panic_threshold", |of| of.panic_threshold = u32::MAX),
    ];
    let mut resource = encode::endpoints(&with_policy());
    if let Some(Body::Endpoints(set)) = &mut resource.body {
        let budget = set.traffic.as_mut().unwrap().retry_budget.as_mut();
        let budget = budget.unwrap();
        (budget.min_per_second, budget.interval_milliseconds) = (65_536, 0);
    }
    let error = decode::resource(resource).unwrap_err().to_string();
    assert!(error.contains("retry_budget.min_per_second"), "{error}");
    for (milliseconds, budget) in [
        (999, None),
        (3_600_001, None),
        // Of a controller that knows no interval.
        (0, Some(RetryBudget::per_second(Percent::default(), 7))),
    ] {
        let mut resource = encode::endpoints(&with_policy());
        let Some(Body::Endpoints(set)) = &mut resource.body else {
            panic!("endpoints");
        };
        let wire = set.traffic.as_mut().unwrap().retry_budget.as_mut().unwrap();
        (wire.interval_milliseconds, wire.min_per_second) = (milliseconds, 7);
        match (decode::resource(resource), budget) {
            (Err(error), None) => {
                let error = error.to_string();
                assert!(
                    error.contains("retry_budget.interval_milliseconds"),
                    "{error}"
                );
            }
            (Ok((_, _, Resource::Endpoints(set))), Some(budget)) => {
                let traffic = set.traffic.as_ref().unwrap();
                assert_eq!(traffic.retry_budget, Some(budget));
            }
            (decoded, _) => panic!("{milliseconds}: {:?}", decoded.is_ok()),
        }
    }
    for connect in [9, 5_001, u32::MAX] {
        let mut resource = encode::endpoints(&with_policy());
        if let Some(Body::Endpoints(set)) = &mut resource.body {
            let timeouts = set.traffic.as_mut().unwrap().timeouts.as_mut();
            timeouts.unwrap().connect_milliseconds = connect;
        }
        let error = decode::resource(resource).unwrap_err().to_string();
        assert!(error.contains("timeouts.connect_milliseconds"), "{error}");
    }
    for status in [0, 17] {
        let mut resource = encode::endpoints(&with_policy());
        if let Some(Body::Endpoints(set)) = &mut resource.body {
            let retries = set.traffic.as_mut().unwrap().retries.as_mut();
            retries.unwrap().grpc_statuses.push(status);
        }
        let error = decode::resource(resource).unwrap_err().to_string();
        assert!(error.contains("retries.grpc_statuses"), "{error}");
    }
    for (field, change) in changes {
        let mut resource = encode::endpoints(&with_policy());
        let Some(Body::Endpoints(set)) = &mut resource.body else {
            panic!("endpoints");
        };
        let policy = set.traffic.as_mut().unwrap();
        change(policy.outlier_detection.as_mut().unwrap());
        let error = decode::resource(resource).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
}

#[test]
fn encoded_resources_decode_to_the_same_value() {
    let gateway = Gateway {
        id: GatewayId::new("infra", "shared"),
        client_certificate: Some(pair()),
        forwarded: ForwardedTrust {
            hops: 2,
            header: ForwardedHeader::Forwarded,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
        },
        proxy_protocol: true,
        normalize_paths: false,
    };
    let mut rows = vec![
        (encode::gateway(&gateway), Resource::Gateway(gateway)),
        (encode::endpoints(&set()), Resource::Endpoints(set())),
        (
            encode::endpoints(&with_policy()),
            Resource::Endpoints(with_policy()),
        ),
    ];
    for port in ports() {
        rows.push((encode::gateway_port(&port), Resource::Port(port)));
    }
    for (wire, whole) in rows {
        let (key, _, decoded) = decode::resource(wire.clone()).unwrap();
        assert_eq!(decoded, whole);
        assert_eq!(key.to_string(), wire.key);
    }
}

#[test]
fn port_under_another_key_is_rejected() {
    let [http, ..] = ports();
    let mut wire = encode::gateway_port(&http);
    wire.key = "port/udp/80".into();
    let refused = decode::resource(wire).unwrap_err().to_string();
    assert!(refused.contains("tcp/80"), "{refused}");
}

/// An absent field must never weaken a check.
#[test]
fn unknown_settings_do_not_weaken_checks() {
    type Break = fn(&mut proto::BackendTls);
    let mut open = encode::endpoints(&set());
    let breaks: [Break; 2] = [
        |tls| tls.alternative_names[0].kind = None,
        |tls| tls.roots.clear(),
    ];
    let mut broken = breaks.map(|breaks| {
        let mut wire = open.clone();
        let Some(proto::resource::Body::Endpoints(set)) = &mut wire.body else {
            panic!("no endpoints")
        };
        breaks(set.tls.as_mut().unwrap());
        decode::resource(wire)
    });
    assert!(broken[0].is_err());
    let Ok((_, _, Resource::Endpoints(set))) = &mut broken[1] else {
        panic!("no endpoints")
    };
    let roots = &set.tls.as_ref().unwrap().roots;
    assert_eq!(*roots, BackendRoots::Pem([].into()));
    open.body = None;
    assert!(decode::resource(open).is_err());
}

/// A rule is sent once, however many hosts and listeners have it, and is decoded to the same rule
/// for all of them.
#[test]
fn shared_rules_are_sent_once() {
    let value = |place: usize| HeaderMatch {
        name: http::HeaderName::from_static("x-long"),
        value: ValueMatch::Exact(format!("{place}{}", "v".repeat(4_000))),
    };
    let rule = |index: u32| Rule {
        index,
        matches: (0..150)
            .map(|place| RequestMatch {
                headers: vec![value(place)],
                ..RequestMatch::default()
            })
            .collect(),
        ..(*rules()[0]).clone()
    };
    let rules: Vec<Arc<Rule>> = (0..2).map(|index| Arc::new(rule(index))).collect();
    let listeners = (0..4).map(|listener| HttpListener {
        name: format!("l{listener}").into(),
        hostname: None,
        external_auth: Vec::new(),
        hosts: (0..16)
            .map(|host| VirtualHost {
                host: Some(format!("h{host}.l{listener}.example.com").parse().unwrap()),
                rules: rules.clone(),
            })
            .collect(),
    });
    let port = GatewayPort {
        port: 80,
        serving: Serving::Http(listeners.collect()),
        services: Vec::new(),
    };
    let wire = encode::gateway_port(&port);
    assert!((1_200_000..1_300_000).contains(&wire.encoded_len()));
    let (_, _, decoded) = decode::resource(wire).unwrap();
    let Resource::Port(decoded) = decoded else {
        panic!("no port")
    };
    assert_eq!(decoded, port);
    let Serving::Http(listeners) = &decoded.serving else {
        panic!("no listeners")
    };
    let mut hosts = listeners.iter().flat_map(|listener| &listener.hosts);
    assert!(hosts.all(|host| Arc::ptr_eq(&host.rules[1], &listeners[0].hosts[0].rules[1])));
}

#[test]
fn host_with_an_invalid_rule_index_is_rejected() {
    let [http, ..] = ports();
    let mut wire = encode::gateway_port(&http);
    let Some(proto::resource::Body::Port(port)) = &mut wire.body else {
        panic!("no port")
    };
    port.rules.clear();
    let refused = decode::resource(wire).unwrap_err().to_string();
    assert!(
        refused.contains("host.rule_indexes: 0, of 0 rules"),
        "{refused}"
    );
}

/// As earlier versions of the controller send it.
#[test]
fn rules_inside_hosts_are_decoded() {
    use proto::gateway_port::Serving as Wire;
    let [http, ..] = ports();
    let mut wire = encode::gateway_port(&http);
    let Some(proto::resource::Body::Port(port)) = &mut wire.body else {
        panic!("no port")
    };
    let Some(Wire::SharedHttp(mut listeners)) = port.serving.take() else {
        panic!("no listeners")
    };
    for host in &mut listeners.listeners[0].hosts {
        host.rule_indexes.clear();
        host.rules = port.rules[..1].to_vec();
    }
    port.serving = Some(Wire::Http(listeners));
    port.rules.clear();
    let (_, _, decoded) = decode::resource(wire).unwrap();
    assert_eq!(decoded, Resource::Port(http));
}
