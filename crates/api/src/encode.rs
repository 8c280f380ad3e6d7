//! Encodes `weft-ir`. Every type is destructured without `..`, so that a new field cannot be
//! forgotten.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use weft_ir::{
    Choice, Destination, Endpoint, EndpointSet, Hints, Identity, Locality, Mode, Probe,
    ProbeRequest, Protocol, ResourceKey, Routing, Rule, Service, ServiceId, ServiceKind,
    ServicePort, Target, TrustedRoots, Workload,
};

use crate::{Resource, proto};
use proto::resource::Body;
use rules::{backend, connection_rule, rule, tls_rule};

mod authentication;
mod authorization;
mod external_auth;
pub(crate) mod fault;
mod gateway;
mod rules;
mod traffic;

pub use authorization::authorizations;
pub use gateway::{RouteDigests, gateway, gateway_port, route_digests};

/// Encodes a resource of any kind.
pub fn any(of: &Resource) -> proto::Resource {
    match of {
        Resource::Workload(of) => workload(of),
        Resource::Roots(of) => roots(of),
        Resource::Destination(of) => destination(of),
        Resource::Endpoints(of) => endpoints(of),
        Resource::Gateway(of) => gateway(of),
        Resource::Port(of) => gateway_port(of),
        Resource::Authorization(of) => authorizations(of),
    }
}

/// Encodes the configuration of the proxy's own pod.
pub fn workload(of: &Workload) -> proto::Resource {
    let Workload {
        identity: id,
        mode,
        port_modes,
        probes,
        locality: Locality { node, zone },
        host_ips,
        limits,
    } = of;
    // An earlier proxy, which reads this mode alone, must not serve a strict port in plain text.
    let is_strict = |mode: &Mode| *mode == Mode::Strict;
    let strictest = port_modes.values().find(|mode| is_strict(mode));
    let other_ports = (!port_modes.is_empty()).then(|| mtls_mode(*mode));
    let mode = mtls_mode(*strictest.unwrap_or(mode));
    let port_mode = |(port, mode): (&u16, &Mode)| proto::PortMode {
        port: u32::from(*port),
        mode: mtls_mode(*mode).into(),
    };
    resource(
        &ResourceKey::Workload,
        Body::Workload(proto::Workload {
            identity: Some(identity(id)),
            mode: mode.into(),
            probes: probes.iter().map(probe).collect(),
            node: node.clone(),
            zone: zone.clone(),
            host_ips: host_ips.iter().map(IpAddr::to_string).collect(),
            other_ports: other_ports.map_or(0, Into::into),
            port_modes: port_modes.iter().map(port_mode).collect(),
            limits: limits.iter().map(traffic::limits::port_limit).collect(),
        }),
    )
}

fn mtls_mode(of: Mode) -> proto::workload::Mode {
    match of {
        Mode::Permissive => proto::workload::Mode::Permissive,
        Mode::Strict => proto::workload::Mode::Strict,
    }
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

/// Encodes the trusted roots.
pub fn roots(of: &TrustedRoots) -> proto::Resource {
    let TrustedRoots { signer, additional } = of;
    let body = Body::Roots(proto::Roots {
        signer: signer.clone().into(),
        additional: additional.iter().map(|root| root.clone().into()).collect(),
    });
    resource(&ResourceKey::Roots, body)
}

/// Encodes what is at an address.
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

/// Encodes the endpoints of a Service port.
pub fn endpoints(of: &EndpointSet) -> proto::Resource {
    let EndpointSet {
        id,
        protocol: speaks,
        endpoints,
        tls,
        choice: Choice { hints, affinity },
        traffic: policy,
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
        traffic: policy.as_deref().map(traffic::policy),
    });
    resource(&ResourceKey::Endpoints(id.clone()), body)
}

/// Sets key and version. The version is the FNV-1a hash of the encoded body, so that every
/// controller assigns the same one.
fn resource(key: &ResourceKey, body: Body) -> proto::Resource {
    let mut resource = proto::Resource {
        key: key.to_string(),
        version: 0,
        body: Some(body),
    };
    // 0 is reserved: proxies use it for "only partly in effect".
    resource.version = digest(DIGEST, &resource.encode_to_vec()).max(1);
    resource
}

/// The hash of no bytes.
pub const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues the FNV-1a hash `before` with these bytes.
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

/// At least 1, since 0 means no limit.
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
