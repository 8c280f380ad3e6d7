//! `weft-ir` to the wire. Every type is taken apart whole, so that a new field cannot be forgotten here.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use weft_ir::{
    Allowed, Backend, Choice, ConnectionRule, Cors, Destination, Endpoint, EndpointSet, Filter,
    HeaderEdit, HeaderMatch, Hints, Identity, Mirror, Mode, PathEdit, PathMatch, Place, Probe,
    ProbeRequest, Protocol, QueryMatch, Redirect, RequestMatch, ResourceKey, Retry, Rewrite,
    RouteId, RouteKind, Routing, Rule, Service, ServiceId, ServiceKind, ServicePort, Target,
    Timeouts, TlsRule, TrustedRoots, ValueMatch, WeightedBackend, Workload,
};

use crate::proto;
use proto::resource::Body;

mod gateway;

pub use gateway::{RouteDigests, gateway, gateway_port, route_digests};

/// The resource of the proxy's own pod.
pub fn workload(of: &Workload) -> proto::Resource {
    let Workload {
        identity: id,
        mode,
        probes,
        place: Place { node, zone },
    } = of;
    let mode = match mode {
        Mode::Permissive => proto::workload::Mode::Permissive,
        Mode::Strict => proto::workload::Mode::Strict,
    };
    resource(
        &ResourceKey::Workload,
        Body::Workload(proto::Workload {
            identity: Some(identity(id)),
            mode: mode.into(),
            probes: probes.iter().map(probe).collect(),
            node: node.clone(),
            zone: zone.clone(),
        }),
    )
}

fn probe(of: &Probe) -> proto::Probe {
    use proto::probe::Kind;
    let Probe { port, asks } = of;
    let kind = match asks {
        ProbeRequest::Get(path) => Kind::HttpPath(path.clone()),
        ProbeRequest::GrpcHealth => Kind::Grpc(proto::GrpcHealth {}),
    };
    proto::Probe {
        port: (*port).into(),
        kind: Some(kind),
    }
}

/// The resource of the roots.
pub fn roots(of: &TrustedRoots) -> proto::Resource {
    let TrustedRoots { signer, further } = of;
    let body = Body::Roots(proto::Roots {
        signer: signer.clone().into(),
        further: further.iter().map(|root| root.clone().into()).collect(),
    });
    resource(&ResourceKey::Roots, body)
}

/// The resource of what is at an address.
pub fn destination(of: &Destination) -> proto::Resource {
    use proto::destination::Target as Wire;
    let Destination { address, target } = of;
    let target = match target {
        Target::Service(of) => Wire::Service(service(of)),
        Target::Pod(of) => Wire::Pod(endpoint(of)),
        Target::Unknown => Wire::Unknown(proto::Unknown {}),
    };
    let body = Body::Destination(proto::Destination {
        target: Some(target),
    });
    resource(&ResourceKey::Destination(*address), body)
}

/// The resource of a Service port's endpoints.
pub fn endpoints(of: &EndpointSet) -> proto::Resource {
    let EndpointSet {
        id,
        protocol: speaks,
        endpoints,
        tls,
        choice: Choice { hints, affinity },
    } = of;
    let hinted = |of: &Endpoint| {
        let mut wire = endpoint(of);
        if let Some(Hints { nodes, zones }) = hints.get(&of.address) {
            wire.for_nodes = nodes.iter().cloned().collect();
            wire.for_zones = zones.iter().cloned().collect();
        }
        wire
    };
    let body = Body::Endpoints(proto::EndpointSet {
        id: Some(service_port(id)),
        protocol: protocol(*speaks).into(),
        endpoints: endpoints.iter().map(hinted).collect(),
        tls: tls.as_deref().map(gateway::backend_tls),
        affinity_seconds: affinity.map_or(0, seconds),
    });
    resource(&ResourceKey::Endpoints(id.clone()), body)
}

/// Key and version are filled in here; the version is FNV-1a over the encoded body, the same from every controller.
fn resource(key: &ResourceKey, body: Body) -> proto::Resource {
    let mut resource = proto::Resource {
        key: key.to_string(),
        version: 0,
        body: Some(body),
    };
    // 0 is the proxy's word for "in force in part only".
    resource.version = digest(DIGEST, &resource.encode_to_vec()).max(1);
    resource
}

/// The digest of nothing.
pub const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: that of `before`, and of these bytes behind it.
pub fn digest(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn identity(of: &Identity) -> proto::Identity {
    proto::Identity {
        trust_domain: of.trust_domain().to_string(),
        namespace: of.namespace().to_owned(),
        account: of.account().to_owned(),
    }
}

fn service_port(of: &ServicePort) -> proto::ServicePort {
    use proto::service_port::Name;
    let ServicePort { service, port } = of;
    let ServiceId {
        kind,
        namespace,
        name,
    } = service;
    let name = name.clone();
    proto::ServicePort {
        namespace: namespace.clone(),
        name: Some(match kind {
            ServiceKind::Service => Name::Service(name),
            ServiceKind::Import => Name::ServiceImport(name),
        }),
        port: u32::from(*port),
    }
}

fn protocol(of: Protocol) -> proto::Protocol {
    match of {
        Protocol::Detect => proto::Protocol::Unspecified,
        Protocol::Http1 => proto::Protocol::Http1,
        Protocol::Http2 => proto::Protocol::Http2,
        Protocol::Grpc => proto::Protocol::Grpc,
        Protocol::Tls => proto::Protocol::Tls,
        Protocol::Tcp => proto::Protocol::Tcp,
    }
}

fn endpoint(of: &Endpoint) -> proto::Endpoint {
    let Endpoint {
        address,
        identity: id,
    } = of;
    proto::Endpoint {
        address: address.to_string(),
        identity: id.as_ref().map(identity),
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
    }
}

/// At least one: 0 stands for none.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1)
}

fn service(of: &Service) -> proto::Service {
    use proto::service::Routing as Wire;
    let Service {
        id,
        protocol: speaks,
        routing,
    } = of;
    let rules = |rules: &[Arc<Rule>]| proto::HttpRouting {
        rules: rules.iter().map(|of| rule(of)).collect(),
    };
    let routing = match routing {
        Routing::Direct(backends) => Wire::Direct(proto::Direct {
            backends: backends.iter().map(backend).collect(),
        }),
        Routing::Http(of) => Wire::Http(rules(of)),
        Routing::Grpc(of) => Wire::Grpc(rules(of)),
        Routing::Tls(of) => Wire::Tls(proto::TlsRouting {
            rules: of.iter().map(tls_rule).collect(),
        }),
        Routing::Tcp(of) => Wire::Tcp(connection_rule(of)),
    };
    proto::Service {
        id: Some(service_port(id)),
        protocol: protocol(*speaks).into(),
        routing: Some(routing),
    }
}

fn tls_rule(of: &TlsRule) -> proto::TlsRule {
    let TlsRule { hostnames, rule } = of;
    proto::TlsRule {
        hostnames: hostnames.iter().map(ToString::to_string).collect(),
        rule: Some(connection_rule(rule)),
    }
}

fn connection_rule(of: &ConnectionRule) -> proto::ConnectionRule {
    let ConnectionRule {
        route,
        index,
        name,
        backends,
    } = of;
    proto::ConnectionRule {
        route: Some(route_id(route)),
        index: *index,
        name: name.as_deref().unwrap_or_default().to_owned(),
        backends: backends.iter().map(backend).collect(),
    }
}

fn route_id(of: &RouteId) -> proto::Route {
    let RouteId {
        kind,
        namespace,
        name,
    } = of;
    let kind = match kind {
        RouteKind::Http => proto::route::Kind::Http,
        RouteKind::Grpc => proto::route::Kind::Grpc,
        RouteKind::Tls => proto::route::Kind::Tls,
        RouteKind::Tcp => proto::route::Kind::Tcp,
        RouteKind::Udp => proto::route::Kind::Udp,
    };
    proto::Route {
        kind: kind.into(),
        namespace: namespace.to_string(),
        name: name.to_string(),
    }
}

fn rule(of: &Rule) -> proto::Rule {
    let Rule {
        route,
        index,
        name,
        matches,
        filters,
        backends,
        timeouts,
        retry,
        failure,
    } = of;
    let Timeouts {
        request,
        backend: one_try,
    } = timeouts;
    let nanos = |limit: &Option<Duration>| limit.map_or(0, nanos);
    proto::Rule {
        route: Some(route_id(route)),
        index: *index,
        name: name.as_deref().unwrap_or_default().to_owned(),
        matches: matches.iter().map(request_match).collect(),
        filters: filters.iter().map(filter).collect(),
        backends: backends.iter().map(backend).collect(),
        request_timeout: nanos(request),
        backend_timeout: nanos(one_try),
        failure: failure.as_deref().unwrap_or_default().to_owned(),
        retry: retry.as_ref().map(self::retry),
    }
}

fn retry(of: &Retry) -> proto::Retry {
    let Retry {
        codes,
        attempts,
        backoff,
    } = of;
    proto::Retry {
        codes: codes.iter().map(|code| code.as_u16().into()).collect(),
        attempts: *attempts,
        backoff: nanos(*backoff),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn request_match(of: &RequestMatch) -> proto::Match {
    use proto::path_match::Kind;
    let RequestMatch {
        path,
        headers,
        query,
        method,
        broken,
    } = of;
    let path = path.as_ref().map(|path| match path {
        PathMatch::Exact(text) => Kind::Exact(text.clone()),
        PathMatch::Prefix(text) => Kind::Prefix(text.clone()),
        PathMatch::Regex(pattern) => Kind::Regex(pattern.as_str().to_owned()),
        PathMatch::GrpcMethod(text) => Kind::GrpcMethod(text.clone()),
    });
    let header = |HeaderMatch { name, value }: &HeaderMatch| value_match(name.as_str(), value);
    let parameter = |QueryMatch { name, value }: &QueryMatch| value_match(name, value);
    proto::Match {
        path: path.map(|kind| proto::PathMatch { kind: Some(kind) }),
        headers: headers.iter().map(header).collect(),
        query: query.iter().map(parameter).collect(),
        method: method.as_ref().map(ToString::to_string).unwrap_or_default(),
        broken: *broken,
    }
}

fn value_match(name: &str, value: &ValueMatch) -> proto::ValueMatch {
    use proto::value_match::Kind;
    let kind = match value {
        ValueMatch::Exact(text) => Kind::Exact(text.clone()),
        ValueMatch::Regex(pattern) => Kind::Regex(pattern.as_str().to_owned()),
    };
    proto::ValueMatch {
        name: name.to_owned(),
        kind: Some(kind),
    }
}

fn filter(of: &Filter) -> proto::Filter {
    use proto::filter::Kind;
    let kind = match of {
        Filter::RequestHeaders(edit) => Kind::RequestHeaders(header_edit(edit)),
        Filter::ResponseHeaders(edit) => Kind::ResponseHeaders(header_edit(edit)),
        Filter::Redirect(Redirect {
            scheme,
            host,
            port,
            path,
            code,
        }) => Kind::Redirect(proto::Redirect {
            scheme: scheme.as_deref().unwrap_or_default().to_owned(),
            host: host.as_deref().unwrap_or_default().to_owned(),
            port: port.map_or(0, u32::from),
            path: path.as_ref().map(path_edit),
            code: u32::from(code.as_u16()),
        }),
        Filter::Rewrite(Rewrite { host, path }) => Kind::Rewrite(proto::Rewrite {
            host: host
                .as_ref()
                .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
                .unwrap_or_default(),
            path: path.as_ref().map(path_edit),
        }),
        Filter::Mirror(Mirror {
            to,
            numerator,
            denominator,
        }) => Kind::Mirror(proto::Mirror {
            to: Some(service_port(to)),
            numerator: *numerator,
            denominator: *denominator,
        }),
        Filter::Cors(of) => Kind::Cors(cors(of)),
    };
    proto::Filter { kind: Some(kind) }
}

fn cors(of: &Cors) -> proto::Cors {
    let Cors {
        origins,
        credentials,
        methods,
        headers,
        expose,
        max_age,
    } = of;
    let allowed = |of: &Allowed| match of {
        Allowed::Unsaid => String::new(),
        Allowed::Any => "*".to_owned(),
        Allowed::These(these) => String::from_utf8_lossy(these.as_bytes()).into_owned(),
    };
    proto::Cors {
        origins: origins.iter().map(ToString::to_string).collect(),
        credentials: *credentials,
        methods: allowed(methods),
        headers: allowed(headers),
        expose: allowed(expose),
        max_age: *max_age,
    }
}

fn header_edit(of: &HeaderEdit) -> proto::HeaderEdit {
    let HeaderEdit { set, add, remove } = of;
    let header = |(name, value): &(http::HeaderName, http::HeaderValue)| proto::Header {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    proto::HeaderEdit {
        set: set.iter().map(header).collect(),
        add: add.iter().map(header).collect(),
        remove: remove.iter().map(ToString::to_string).collect(),
    }
}

fn path_edit(of: &PathEdit) -> proto::PathEdit {
    use proto::path_edit::Kind;
    let kind = match of {
        PathEdit::Full(path) => Kind::Full(path.clone()),
        PathEdit::Prefix(path) => Kind::Prefix(path.clone()),
    };
    proto::PathEdit { kind: Some(kind) }
}

fn backend(of: &WeightedBackend) -> proto::WeightedBackend {
    use proto::weighted_backend::Backend as Wire;
    let WeightedBackend {
        weight,
        backend,
        filters,
    } = of;
    let backend = match backend {
        Backend::Service(id) => Wire::Service(service_port(id)),
        Backend::Invalid(reason) => Wire::Invalid(reason.to_string()),
    };
    proto::WeightedBackend {
        weight: *weight,
        backend: Some(backend),
        filters: filters.iter().map(filter).collect(),
    }
}
