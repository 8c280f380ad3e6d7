//! Names of Services, their ports, and the resources that a proxy holds.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The kind of object that names endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKind {
    /// A Service.
    Service,
    /// A Service of the cluster set (Multi-Cluster Services API); a Service of the cluster can have
    /// the same name.
    Import,
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::Import => "ServiceImport",
        })
    }
}

/// A Service, `namespace/name`, or a ServiceImport, `serviceimport/namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId {
    /// Service or ServiceImport.
    pub kind: ServiceKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ServiceId {
    /// Returns the ID of a Service.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind: ServiceKind::Service,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Returns the ID of a ServiceImport.
    pub fn import(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind: ServiceKind::Import,
            ..Self::new(namespace, name)
        }
    }

    /// Formats the ID with its kind for messages: `Service shop/reviews`.
    pub fn with_kind(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == ServiceKind::Import {
            f.write_str(IMPORT)?;
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Prefix of the name of a ServiceImport.
const IMPORT: &str = "serviceimport/";

/// A port of a Service, `namespace/name:port`, or of a ServiceImport,
/// `serviceimport/namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The Service.
    pub service: ServiceId,
    /// Number of the port.
    pub port: u16,
}

impl ServicePort {
    /// Returns the ID of a port of a Service.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, port: u16) -> Self {
        Self {
            service: ServiceId::new(namespace, name),
            port,
        }
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// The text is not the ID of a Service port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither <namespace>/<name>:<port> nor serviceimport/<namespace>/<name>:<port>")]
pub struct ServicePortError(String);

impl FromStr for ServicePort {
    type Err = ServicePortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_service_port(text).ok_or_else(|| ServicePortError(text.to_owned()))
    }
}

fn parse_service_port(text: &str) -> Option<ServicePort> {
    let (id, port) = text.rsplit_once(':')?;
    // A namespace can be named like the prefix, so the number of parts decides.
    let import = id.strip_prefix(IMPORT).and_then(|id| id.split_once('/'));
    let service = match import {
        Some((namespace, name)) => ServiceId::import(namespace, name),
        None => {
            let (namespace, name) = id.split_once('/')?;
            ServiceId::new(namespace, name)
        }
    };
    let port = port.parse().ok()?;
    let ServiceId {
        namespace, name, ..
    } = &service;
    let valid = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    valid.then_some(ServicePort { service, port })
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The key of a resource on the stream between controller and proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKey {
    /// `workload`: the proxy's own pod.
    Workload,
    /// `roots`: the trusted roots for peer certificates.
    Roots,
    /// `destination/<ip:port>`.
    Destination(SocketAddr),
    /// `endpoints/<namespace>/<service>:<port>`, or `endpoints/serviceimport/...` for a
    /// ServiceImport.
    Endpoints(ServicePort),
    /// `authorization`: the policies that the proxy enforces.
    Authorization,
    /// `gateway`: the settings of the proxy's own gateway.
    Gateway,
    /// `port/tcp/<port>` or `port/udp/<port>`: a port of the proxy's own gateway.
    Port(Transport, u16),
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload => f.write_str("workload"),
            Self::Roots => f.write_str("roots"),
            Self::Authorization => f.write_str("authorization"),
            Self::Destination(address) => write!(f, "destination/{address}"),
            Self::Endpoints(port) => write!(f, "endpoints/{port}"),
            Self::Gateway => f.write_str("gateway"),
            Self::Port(transport, port) => write!(f, "port/{transport}/{port}"),
        }
    }
}

/// The text is not a resource key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "resource key {0:?} is not one of workload, roots, authorization, destination/<ip:port>, \
     endpoints/[serviceimport/]<namespace>/<service>:<port>, gateway, port/<tcp or udp>/<port>"
)]
pub struct ResourceKeyError(String);

impl FromStr for ResourceKey {
    type Err = ResourceKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once('/') {
            None if text == "workload" => Some(Self::Workload),
            None if text == "gateway" => Some(Self::Gateway),
            None if text == "roots" => Some(Self::Roots),
            None if text == "authorization" => Some(Self::Authorization),
            Some(("destination", address)) => address.parse().ok().map(Self::Destination),
            Some(("port", port)) => parse_port(port),
            Some(("endpoints", port)) => port.parse().ok().map(Self::Endpoints),
            _ => None,
        };
        parsed.ok_or_else(|| ResourceKeyError(text.to_owned()))
    }
}

fn parse_port(text: &str) -> Option<ResourceKey> {
    let (transport, port) = text.split_once('/')?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    Some(ResourceKey::Port(transport, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_keys_round_trip() {
        for text in [
            "workload",
            "roots",
            "authorization",
            "destination/10.0.0.1:80",
            "destination/[fd00::1]:443",
            "endpoints/shop/reviews:9080",
            "endpoints/serviceimport/reviews:9080",
            "endpoints/serviceimport/shop/reviews:9080",
            "gateway",
            "port/tcp/443",
            "port/udp/53",
        ] {
            assert_eq!(text.parse::<ResourceKey>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn service_and_import_of_the_same_name_differ() {
        let service = ServicePort::new("shop", "reviews", 80);
        let import = ServicePort {
            service: ServiceId::import("shop", "reviews"),
            port: 80,
        };
        assert_ne!(service, import);
        assert_ne!(service.to_string(), import.to_string());
        assert_eq!(import.to_string().parse(), Ok(import));
        assert_eq!(service.to_string().parse(), Ok(service));
    }

    #[test]
    fn invalid_resource_keys_are_rejected() {
        for text in [
            "",
            "workloads",
            "roots/1",
            "destination/reviews:80",
            "endpoints/reviews:80",
            "endpoints/a/b/c:80",
            "endpoints/serviceimport/a/b/c:80",
            "endpoints/serviceimport//b:80",
            "endpoints/serviceimport/a/:80",
            "endpoints/a/b:99999",
            "port/sctp/80",
            "port/tcp",
        ] {
            assert!(text.parse::<ResourceKey>().is_err(), "{text}");
        }
    }
}
