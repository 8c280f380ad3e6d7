//! Decodes to `weft-ir`. Invalid messages are rejected with the field and the value.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_ir::{
    Choice, Destination, Endpoint, EndpointSet, Hints, Identity, Locality, Mode, Pattern, Patterns,
    Probe, ProbeRequest, Protocol, ResourceKey, Routing, Service, ServiceId, ServiceKind,
    ServicePort, Target, TrustDomain, TrustedRoots, Workload,
};

use crate::{Resource, proto};

mod authentication;
mod authorization;
mod external_auth;
pub(crate) mod fault;
mod gateway;
mod rules;
mod traffic;

use rules::{backend, connection_rule, rule, tls_rule};

/// The message is invalid.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A field is absent or of an unknown kind.
    #[error("{0} is absent or of an unknown kind")]
    Absent(&'static str),
    /// The value of a field is invalid.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
}

type Decoded<T> = Result<T, DecodeError>;

fn invalid(field: &'static str) -> impl Fn(&dyn std::fmt::Display) -> DecodeError {
    move |reason| DecodeError::Invalid {
        field,
        reason: reason.to_string(),
    }
}

/// State shared between the parts of a resource, and between resources.
struct Context<'p>(RefCell<&'p mut Patterns>);

impl Context<'_> {
    fn pattern(&self, field: &'static str, text: &str) -> Decoded<Pattern> {
        let pattern = self.0.borrow_mut().get(text);
        pattern.map_err(|error| invalid(field)(&error))
    }
}

/// Like [`resource_with`], without shared patterns.
pub fn resource(wire: proto::Resource) -> Decoded<(ResourceKey, u64, Resource)> {
    resource_with(wire, &mut Patterns::default())
}

/// Decodes key, version and content of a resource, using the compiled `patterns`.
///
/// # Errors
///
/// If a field is absent or invalid, or if the content does not match the key.
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
        (ResourceKey::Authorization, Body::Authorization(wire)) => {
            Resource::Authorization(authorization::authorizations(wire, &context)?)
        }
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
    let limits = wire.limits.iter().copied();
    let mode = match wire.port_modes.is_empty() {
        true => wire.mode(),
        false => wire.other_ports(),
    };
    let port_mode = |of: &proto::PortMode| {
        let port = u16::try_from(of.port).map_err(|_| invalid("port_modes.port")(&of.port))?;
        Ok((port, mtls_mode(of.mode())))
    };
    Ok(Workload {
        identity: identity(
            wire.identity
                .ok_or(DecodeError::Absent("workload.identity"))?,
        )?,
        mode: mtls_mode(mode),
        port_modes: wire
            .port_modes
            .iter()
            .map(port_mode)
            .collect::<Decoded<_>>()?,
        probes: wire.probes.into_iter().filter_map(probe).collect(),
        locality: Locality {
            node: wire.node,
            zone: wire.zone,
        },
        host_ips: host_ips(&wire.host_ips)?,
        limits: limits
            .map(traffic::limits::port_limit)
            .collect::<Decoded<_>>()?,
    })
}

/// Unknown modes fail closed.
fn mtls_mode(wire: proto::workload::Mode) -> Mode {
    match wire {
        proto::workload::Mode::Permissive => Mode::Permissive,
        proto::workload::Mode::Strict | proto::workload::Mode::Unspecified => Mode::Strict,
    }
}

/// An empty list means that the addresses are not known, so an invalid one is not left out.
fn host_ips(wire: &[String]) -> Decoded<Vec<IpAddr>> {
    let ip = |text: &String| {
        let parsed: Result<_, std::net::AddrParseError> = text.parse();
        parsed.map_err(|error| invalid("workload.host_ips")(&error))
    };
    wire.iter().map(ip).collect()
}

fn roots(wire: proto::Roots) -> Decoded<TrustedRoots> {
    let proto::Roots { signer, additional } = wire;
    if signer.is_empty() {
        return Err(DecodeError::Absent("roots.signer"));
    }
    Ok(TrustedRoots {
        signer: signer.to_vec(),
        additional: additional.iter().map(|root| root.to_vec()).collect(),
    })
}

/// Unknown probes are not served.
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
            "{namespace:?}/{name:?} is not a Service name"
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
        traffic: wire.traffic.map(traffic::policy).transpose()?.map(Arc::new),
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
        // Only used in endpoint sets.
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
