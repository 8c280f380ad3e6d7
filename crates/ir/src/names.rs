//! Names of things: Services, their ports, and the resources a proxy holds.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A Service, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId {
    pub namespace: String,
    pub name: String,
}

impl ServiceId {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One port of a Service, `namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    pub service: ServiceId,
    pub port: u16,
}

impl ServicePort {
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

/// What names a resource on the stream between controller and proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKey {
    /// `workload`: the proxy's own pod.
    Workload,
    /// `destination/<ip:port>`.
    Destination(SocketAddr),
    /// `endpoints/<namespace>/<service>:<port>`.
    Endpoints(ServicePort),
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload => f.write_str("workload"),
            Self::Destination(address) => write!(f, "destination/{address}"),
            Self::Endpoints(port) => write!(f, "endpoints/{port}"),
        }
    }
}

/// The text is no resource key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "resource key {0:?} is neither workload, destination/<ip:port> nor endpoints/<namespace>/<service>:<port>"
)]
pub struct ResourceKeyError(String);

impl FromStr for ResourceKey {
    type Err = ResourceKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once('/') {
            None if text == "workload" => Some(Self::Workload),
            Some(("destination", address)) => address.parse().ok().map(Self::Destination),
            Some(("endpoints", port)) => parse_service_port(port).map(Self::Endpoints),
            _ => None,
        };
        parsed.ok_or_else(|| ResourceKeyError(text.to_owned()))
    }
}

fn parse_service_port(text: &str) -> Option<ServicePort> {
    let (service, port) = text.rsplit_once(':')?;
    let (namespace, name) = service.split_once('/')?;
    let valid = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    valid.then(|| {
        port.parse()
            .ok()
            .map(|port| ServicePort::new(namespace, name, port))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_as_they_print() {
        for text in [
            "workload",
            "destination/10.0.0.1:80",
            "destination/[fd00::1]:443",
            "endpoints/shop/reviews:9080",
        ] {
            assert_eq!(text.parse::<ResourceKey>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "workloads",
            "destination/reviews:80",
            "endpoints/reviews:80",
            "endpoints/a/b/c:80",
            "endpoints/a/b:99999",
        ] {
            assert!(text.parse::<ResourceKey>().is_err(), "{text}");
        }
    }
}
