//! The wire to `weft-ir`. Whatever does not fit is refused, with the field and the value that did not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_ir::{
    Allowed, Backend, Choice, ConnectionRule, Cors, Destination, Endpoint, EndpointSet, Filter,
    HeaderEdit, HeaderMatch, Hints, HostPattern, Identity, Mirror, Mode, OriginPattern, PathEdit,
    PathMatch, Pattern, Patterns, Place, Probe, ProbeRequest, Protocol, QueryMatch, Redirect,
    RequestMatch, ResourceKey, Retry, Rewrite, RouteId, RouteKind, Routing, Rule, Service,
    ServiceId, ServiceKind, ServicePort, Target, Timeouts, TlsRule, TrustDomain, TrustedRoots,
    ValueMatch, WeightedBackend, Workload,
};

use crate::{Resource, proto};

mod gateway;

/// A message that does not say what its type promises.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{0} is absent or of a kind that this version does not know")]
    Absent(&'static str),
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
}

type Decoded<T> = Result<T, DecodeError>;

fn invalid(field: &'static str) -> impl Fn(&dyn std::fmt::Display) -> DecodeError {
    move |reason| DecodeError::Invalid {
        field,
        reason: reason.to_string(),
    }
}

/// What decoding shares between the parts of a resource, and between resources.
struct Context<'p>(RefCell<&'p mut Patterns>);

/// As [`resource_with`], with patterns of its own.
pub fn resource(wire: proto::Resource) -> Decoded<(ResourceKey, u64, Resource)> {
    resource_with(wire, &mut Patterns::default())
}

/// Key, version and content of a resource; `patterns`: those that are compiled already. Errors when the key and the
/// content do not belong together, too.
pub fn resource_with(
    wire: proto::Resource,
    patterns: &mut Patterns,
) -> Decoded<(ResourceKey, u64, Resource)> {
    use proto::resource::Body;
    let context = Context(RefCell::new(patterns));
    let proto::Resource { key, version, body } = wire;
    let key: ResourceKey = key.parse().map_err(|error| invalid("key")(&error))?;
    let content = match (&key, body.ok_or(DecodeError::Absent("body"))?) {
        (ResourceKey::Workload, Body::Workload(wire)) => Resource::Workload(workload(wire)?),
        (ResourceKey::Roots, Body::Roots(wire)) => Resource::Roots(roots(wire)?),
        (ResourceKey::Destination(address), Body::Destination(wire)) => {
            Resource::Destination(destination(*address, wire, &context)?)
        }
        (ResourceKey::Endpoints(id), Body::Endpoints(wire)) => {
            let set = endpoint_set(wire)?;
            if set.id != *id {
                return Err(invalid("endpoints.id")(&format_args!(
                    "{} under the key of {id}",
                    set.id
                )));
            }
            Resource::Endpoints(set)
        }
        (ResourceKey::Gateway, Body::Gateway(wire)) => Resource::Gateway(gateway::gateway(wire)?),
        (ResourceKey::Port(transport, number), Body::Port(wire)) => {
            let port = gateway::gateway_port(wire, &context)?;
            if (port.transport(), port.port) != (*transport, *number) {
                return Err(invalid("port.port")(&format_args!(
                    "{}/{} under the key {key}",
                    port.transport(),
                    port.port
                )));
            }
            Resource::Port(port)
        }
        _ => {
            return Err(invalid("body")(&format_args!(
                "not of the kind that the key {key} names"
            )));
        }
    };
    Ok((key, version, content))
}

fn workload(wire: proto::Workload) -> Decoded<Workload> {
    let mode = match wire.mode() {
        proto::workload::Mode::Permissive => Mode::Permissive,
        // What is not understood fails closed.
        proto::workload::Mode::Strict | proto::workload::Mode::Unspecified => Mode::Strict,
    };
    Ok(Workload {
        identity: identity(
            wire.identity
                .ok_or(DecodeError::Absent("workload.identity"))?,
        )?,
        mode,
        probes: wire.probes.into_iter().filter_map(probe).collect(),
        place: Place {
            node: wire.node,
            zone: wire.zone,
        },
    })
}

fn roots(wire: proto::Roots) -> Decoded<TrustedRoots> {
    let proto::Roots { signer, further } = wire;
    if signer.is_empty() {
        return Err(DecodeError::Absent("roots.signer"));
    }
    Ok(TrustedRoots {
        signer: signer.to_vec(),
        further: further.iter().map(|root| root.to_vec()).collect(),
    })
}

/// What is not understood is not served.
fn probe(wire: proto::Probe) -> Option<Probe> {
    use proto::probe::Kind;
    let asks = match wire.kind? {
        Kind::HttpPath(path) => ProbeRequest::Get(path),
        Kind::Grpc(proto::GrpcHealth {}) => ProbeRequest::GrpcHealth,
    };
    let port = u16::try_from(wire.port).ok()?;
    Some(Probe { port, asks })
}

fn identity(wire: proto::Identity) -> Decoded<Identity> {
    let proto::Identity {
        trust_domain,
        namespace,
        account,
    } = wire;
    TrustDomain::new(&trust_domain)
        .and_then(|domain| Identity::new(domain, &namespace, &account))
        .map_err(|error| invalid("identity")(&error))
}

fn destination(
    address: SocketAddr,
    wire: proto::Destination,
    context: &Context<'_>,
) -> Decoded<Destination> {
    use proto::destination::Target as Wire;
    let target = match wire
        .target
        .ok_or(DecodeError::Absent("destination.target"))?
    {
        Wire::Service(wire) => Target::Service(Arc::new(service(wire, context)?)),
        Wire::Pod(wire) => Target::Pod(endpoint(wire)?),
        Wire::Unknown(proto::Unknown {}) => Target::Unknown,
    };
    Ok(Destination { address, target })
}

fn service(wire: proto::Service, context: &Context<'_>) -> Decoded<Service> {
    use proto::service::Routing as Wire;
    let protocol = protocol(wire.protocol());
    let id = service_port(wire.id.ok_or(DecodeError::Absent("service.id"))?)?;
    let rules = |wire: proto::HttpRouting| all(wire.rules, |wire| rule(wire, context));
    let routing = match wire.routing.ok_or(DecodeError::Absent("service.routing"))? {
        Wire::Direct(wire) => Routing::Direct(all(wire.backends, backend)?),
        Wire::Http(wire) => Routing::Http(rules(wire)?),
        Wire::Grpc(wire) => Routing::Grpc(rules(wire)?),
        Wire::Tls(wire) => Routing::Tls(all(wire.rules, tls_rule)?),
        Wire::Tcp(wire) => Routing::Tcp(connection_rule(wire)?),
    };
    Ok(Service {
        id,
        protocol,
        routing,
    })
}

fn all<W, T>(wire: Vec<W>, one: impl Fn(W) -> Decoded<T>) -> Decoded<Vec<T>> {
    wire.into_iter().map(one).collect()
}

fn service_port(wire: proto::ServicePort) -> Decoded<ServicePort> {
    use proto::service_port::Name;
    let proto::ServicePort {
        namespace,
        name,
        port,
    } = wire;
    let port = u16::try_from(port).map_err(|error| invalid("service.port")(&error))?;
    let (kind, name) = match name.ok_or(DecodeError::Absent("service.name"))? {
        Name::Service(name) => (ServiceKind::Service, name),
        Name::ServiceImport(name) => (ServiceKind::Import, name),
    };
    if namespace.is_empty() || name.is_empty() || namespace.contains('/') || name.contains('/') {
        return Err(invalid("service.id")(&format_args!(
            "{namespace:?}/{name:?} is no Service name"
        )));
    }
    let service = ServiceId {
        kind,
        namespace,
        name,
    };
    Ok(ServicePort { service, port })
}

fn protocol(wire: proto::Protocol) -> Protocol {
    match wire {
        proto::Protocol::Unspecified => Protocol::Detect,
        proto::Protocol::Http1 => Protocol::Http1,
        proto::Protocol::Http2 => Protocol::Http2,
        proto::Protocol::Grpc => Protocol::Grpc,
        proto::Protocol::Tls => Protocol::Tls,
        proto::Protocol::Tcp => Protocol::Tcp,
    }
}

fn endpoint_set(wire: proto::EndpointSet) -> Decoded<EndpointSet> {
    let protocol = protocol(wire.protocol());
    let id = service_port(wire.id.ok_or(DecodeError::Absent("endpoints.id"))?)?;
    let seconds = u64::from(wire.affinity_seconds);
    let mut choice = Choice {
        hints: BTreeMap::new(),
        affinity: (seconds > 0).then(|| Duration::from_secs(seconds)),
    };
    let mut endpoints = Vec::with_capacity(wire.endpoints.len());
    for mut wire in wire.endpoints {
        let hints = Hints {
            nodes: std::mem::take(&mut wire.for_nodes).into_iter().collect(),
            zones: std::mem::take(&mut wire.for_zones).into_iter().collect(),
        };
        let endpoint = endpoint(wire)?;
        if hints != Hints::default() {
            choice.hints.insert(endpoint.address, hints);
        }
        endpoints.push(endpoint);
    }
    Ok(EndpointSet {
        id,
        protocol,
        endpoints,
        choice,
        tls: wire
            .tls
            .map(|tls| gateway::backend_tls(tls).map(Arc::new))
            .transpose()?,
    })
}

fn endpoint(wire: proto::Endpoint) -> Decoded<Endpoint> {
    let proto::Endpoint {
        address,
        identity: id,
        // Of endpoint sets alone.
        for_nodes: _,
        for_zones: _,
    } = wire;
    let address = address
        .parse()
        .map_err(|error| invalid("endpoint.address")(&format_args!("{address:?}: {error}")))?;
    Ok(Endpoint {
        address,
        identity: id.map(identity).transpose()?,
    })
}

fn rule(wire: proto::Rule, context: &Context<'_>) -> Decoded<Arc<Rule>> {
    let proto::Rule {
        route,
        index,
        name,
        matches,
        filters,
        backends,
        request_timeout,
        backend_timeout,
        failure,
        retry,
    } = wire;
    let limit = |nanos: u64| (nanos > 0).then(|| Duration::from_nanos(nanos));
    Ok(Arc::new(Rule {
        route: route_id(route.ok_or(DecodeError::Absent("rule.route"))?)?,
        index,
        name: text(name),
        matches: all(matches, |wire| request_match(wire, context))?,
        filters: all(filters, filter)?,
        backends: all(backends, backend)?,
        timeouts: Timeouts {
            request: limit(request_timeout),
            backend: limit(backend_timeout),
        },
        retry: retry.map(self::retry).transpose()?,
        failure: text(failure),
    }))
}

fn tls_rule(wire: proto::TlsRule) -> Decoded<TlsRule> {
    let proto::TlsRule { hostnames, rule } = wire;
    let hostname = |text: String| {
        let parsed = text.parse::<HostPattern>();
        parsed.map_err(|error| invalid("tls_rule.hostnames")(&error))
    };
    Ok(TlsRule {
        hostnames: all(hostnames, hostname)?,
        rule: connection_rule(rule.ok_or(DecodeError::Absent("tls_rule.rule"))?)?,
    })
}

fn connection_rule(wire: proto::ConnectionRule) -> Decoded<ConnectionRule> {
    let proto::ConnectionRule {
        route,
        index,
        name,
        backends,
    } = wire;
    Ok(ConnectionRule {
        route: route_id(route.ok_or(DecodeError::Absent("rule.route"))?)?,
        index,
        name: text(name),
        backends: all(backends, backend)?,
    })
}

fn retry(wire: proto::Retry) -> Decoded<Retry> {
    let proto::Retry {
        codes,
        attempts,
        backoff,
    } = wire;
    let code = |code: u32| {
        let code = u16::try_from(code).ok();
        code.and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| invalid("retry.codes")(&"no status code"))
    };
    Ok(Retry {
        codes: all(codes, code)?,
        // A controller may be older than the limits, and its own limits are no protection of the proxy.
        attempts: attempts.min(Retry::MAX_ATTEMPTS),
        backoff: Duration::from_nanos(backoff).max(Retry::LEAST_BACKOFF),
    })
}

/// An empty text on the wire is an absent one.
fn text(wire: String) -> Option<Arc<str>> {
    (!wire.is_empty()).then(|| wire.into())
}

fn route_id(wire: proto::Route) -> Decoded<RouteId> {
    let kind = match wire.kind() {
        proto::route::Kind::Http => RouteKind::Http,
        proto::route::Kind::Grpc => RouteKind::Grpc,
        proto::route::Kind::Tls => RouteKind::Tls,
        proto::route::Kind::Tcp => RouteKind::Tcp,
        proto::route::Kind::Udp => RouteKind::Udp,
        proto::route::Kind::Unspecified => return Err(DecodeError::Absent("route.kind")),
    };
    Ok(RouteId {
        kind,
        namespace: wire.namespace.into(),
        name: wire.name.into(),
    })
}

fn request_match(wire: proto::Match, context: &Context<'_>) -> Decoded<RequestMatch> {
    use proto::path_match::Kind;
    let proto::Match {
        path,
        headers,
        query,
        method,
        broken,
    } = wire;
    let path = match path
        .map(|path| path.kind.ok_or(DecodeError::Absent("match.path")))
        .transpose()?
    {
        None => None,
        Some(Kind::Exact(path)) => Some(PathMatch::Exact(path)),
        Some(Kind::Prefix(path)) => Some(PathMatch::Prefix(path)),
        Some(Kind::Regex(path)) => Some(PathMatch::Regex(context.pattern("match.path", &path)?)),
        Some(Kind::GrpcMethod(method)) => Some(PathMatch::GrpcMethod(method)),
    };
    let method = match method.as_str() {
        "" => None,
        name => Some(
            Method::from_bytes(name.as_bytes()).map_err(|error| invalid("match.method")(&error))?,
        ),
    };
    let header = |wire: proto::ValueMatch| {
        let (name, value) = value_match(wire, context)?;
        Ok(HeaderMatch {
            name: header_name(&name)?,
            value,
        })
    };
    let parameter = |wire| {
        let (name, value) = value_match(wire, context)?;
        Ok(QueryMatch { name, value })
    };
    Ok(RequestMatch {
        path,
        headers: all(headers, header)?,
        query: all(query, parameter)?,
        method,
        broken,
    })
}

impl Context<'_> {
    fn pattern(&self, field: &'static str, text: &str) -> Decoded<Pattern> {
        let pattern = self.0.borrow_mut().get(text);
        pattern.map_err(|error| invalid(field)(&error))
    }
}

fn value_match(wire: proto::ValueMatch, context: &Context<'_>) -> Decoded<(String, ValueMatch)> {
    use proto::value_match::Kind;
    let value = match wire.kind.ok_or(DecodeError::Absent("match.value"))? {
        Kind::Exact(text) => ValueMatch::Exact(text),
        Kind::Regex(text) => ValueMatch::Regex(context.pattern("match.value", &text)?),
    };
    Ok((wire.name, value))
}

fn header_name(name: &str) -> Decoded<HeaderName> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|error| invalid("header name")(&format_args!("{name:?}: {error}")))
}

fn header_value(value: &str) -> Decoded<HeaderValue> {
    HeaderValue::from_str(value)
        .map_err(|error| invalid("header value")(&format_args!("{value:?}: {error}")))
}

fn filter(wire: proto::Filter) -> Decoded<Filter> {
    use proto::filter::Kind;
    // A filter must never be skipped, so one that this version does not know refuses the whole resource.
    Ok(match wire.kind.ok_or(DecodeError::Absent("filter"))? {
        Kind::RequestHeaders(wire) => Filter::RequestHeaders(header_edit(wire)?),
        Kind::ResponseHeaders(wire) => Filter::ResponseHeaders(header_edit(wire)?),
        Kind::Redirect(wire) => Filter::Redirect(redirect(wire)?),
        Kind::Rewrite(proto::Rewrite { host, path }) => Filter::Rewrite(Rewrite {
            host: text(host).map(|host| header_value(&host)).transpose()?,
            path: path.map(path_edit).transpose()?,
        }),
        Kind::Mirror(wire) => Filter::Mirror(mirror(wire)?),
        Kind::Cors(wire) => Filter::Cors(cors(wire)?),
    })
}

fn mirror(wire: proto::Mirror) -> Decoded<Mirror> {
    let proto::Mirror {
        to,
        numerator,
        denominator,
    } = wire;
    if denominator == 0 {
        return Err(invalid("mirror.denominator")(&"0"));
    }
    Ok(Mirror {
        to: service_port(to.ok_or(DecodeError::Absent("mirror.to"))?)?,
        numerator,
        denominator,
    })
}

fn cors(wire: proto::Cors) -> Decoded<Cors> {
    let proto::Cors {
        origins,
        credentials,
        methods,
        headers,
        expose,
        max_age,
    } = wire;
    let origin = |text: String| {
        let parsed: Result<OriginPattern, _> = text.parse();
        parsed.map_err(|error| invalid("cors.origins")(&error))
    };
    let allowed = |text: String| {
        Ok(match text.as_str() {
            "" => Allowed::Unsaid,
            "*" => Allowed::Any,
            these => Allowed::These(header_value(these)?),
        })
    };
    Ok(Cors {
        origins: all(origins, origin)?,
        credentials,
        methods: allowed(methods)?,
        headers: allowed(headers)?,
        expose: allowed(expose)?,
        max_age,
    })
}

fn header_edit(wire: proto::HeaderEdit) -> Decoded<HeaderEdit> {
    let proto::HeaderEdit { set, add, remove } = wire;
    let header = |proto::Header { name, value }| Ok((header_name(&name)?, header_value(&value)?));
    Ok(HeaderEdit {
        set: all(set, header)?,
        add: all(add, header)?,
        remove: all(remove, |name| header_name(&name))?,
    })
}

fn redirect(wire: proto::Redirect) -> Decoded<Redirect> {
    let proto::Redirect {
        scheme,
        host,
        port,
        path,
        code,
    } = wire;
    let port = u16::try_from(port).map_err(|error| invalid("redirect.port")(&error))?;
    let code = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let code = code.filter(StatusCode::is_redirection);
    Ok(Redirect {
        scheme: text(scheme),
        host: text(host),
        port: (port > 0).then_some(port),
        path: path.map(path_edit).transpose()?,
        code: code.ok_or_else(|| invalid("redirect.code")(&"no 3xx status"))?,
    })
}

fn path_edit(wire: proto::PathEdit) -> Decoded<PathEdit> {
    use proto::path_edit::Kind;
    Ok(match wire.kind.ok_or(DecodeError::Absent("path edit"))? {
        Kind::Full(path) => PathEdit::Full(path),
        Kind::Prefix(path) => PathEdit::Prefix(path),
    })
}

fn backend(wire: proto::WeightedBackend) -> Decoded<WeightedBackend> {
    use proto::weighted_backend::Backend as Wire;
    let proto::WeightedBackend {
        weight,
        backend,
        filters,
    } = wire;
    let backend = match backend.ok_or(DecodeError::Absent("backend"))? {
        Wire::Service(id) => Backend::Service(service_port(id)?),
        Wire::Invalid(reason) => Backend::Invalid(reason.into()),
    };
    Ok(WeightedBackend {
        weight,
        backend,
        filters: all(filters, filter)?,
    })
}
