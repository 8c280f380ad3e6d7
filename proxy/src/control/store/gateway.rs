//! The ports of a gateway: bound when they are added, swapped when they change, closed when they
//! are removed.
//!
//! A port that cannot be bound is refused, and tried again until it can be or is removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use weft_api::proto;
use weft_ir::{Gateway, GatewayPort, ResourceKey, ServicePort, Transport};

use super::{Request, Store, StoreState};
use crate::net::socket;
use crate::routing::gateway_port::{BoundPort, PortSocket, ResolvedPort, WatchedPort};
use crate::routing::resolver::Resolver;
use crate::telemetry::labels::{Direction, Parent};

/// The interval at which ports that could not be bound are tried again.
const REBIND: Duration = Duration::from_secs(1);
/// The version of a resource that is in force in part, which no resource has: a new stream brings
/// it again, or has it removed.
const PARTIAL_VERSION: u64 = 0;

impl Store {
    /// Returns the proxy's gateway; `None` until the controller has sent it, and in a sidecar.
    pub fn gateway(&self) -> Option<Arc<Gateway>> {
        self.0.gateway.load_full()
    }

    /// Returns true if the gateway is known, and any of its ports is open if it has some. Ports
    /// that cannot be bound do not keep clients from the others.
    pub fn is_open(&self) -> bool {
        let state = self.state();
        self.0.gateway.load().is_some() && (!state.ports.is_empty() || state.unbound.is_empty())
    }

    /// A certificate for backends that cannot be used is refused; the last one stays in force.
    pub(super) fn publish_gateway(
        &self,
        gateway: Gateway,
        versions: &mut Vec<(ResourceKey, u64)>,
        refused: &mut Vec<proto::Refused>,
    ) {
        let certificate = gateway.client_certificate.as_ref();
        if let Err(error) = self.0.upstream.tls().set_client_certificate(certificate) {
            versions.retain(|(of, _)| *of != ResourceKey::Gateway);
            versions.push((ResourceKey::Gateway, PARTIAL_VERSION));
            refused.push(proto::Refused {
                key: ResourceKey::Gateway.to_string(),
                reason: format!("the certificate for backends: {error}"),
            });
        }
        self.0.gateway.store(Some(Arc::new(gateway)));
    }

    /// Applies the ports of an update. What cannot be applied is added to `refused` and removed
    /// from `versions`, unless it is in force in part.
    pub(super) fn publish_ports(
        &self,
        state: &mut StoreState,
        ports: Vec<GatewayPort>,
        versions: &mut Vec<(ResourceKey, u64)>,
        removed: &[ResourceKey],
        refused: &mut Vec<proto::Refused>,
    ) {
        for key in removed {
            if let ResourceKey::Port(transport, number) = key {
                state.unbound.remove(&(*transport, *number));
                if let Some(watched) = state.ports.remove(&(*transport, *number)) {
                    tracing::info!(port = %key, "no longer listening");
                    watched.close();
                }
            }
        }
        for port in ports {
            let at = (port.transport(), port.port);
            let key = ResourceKey::Port(at.0, at.1);
            let Err(reason) = self.publish_port(state, &port) else {
                state.unbound.remove(&at);
                continue;
            };
            let version = versions.iter().find(|(of, _)| *of == key);
            let version = version.map_or(PARTIAL_VERSION, |(_, version)| *version);
            versions.retain(|(of, _)| *of != key);
            if state.ports.contains_key(&at) {
                versions.push((key.clone(), PARTIAL_VERSION));
            } else {
                state.unbound.insert(at, (version, port));
            }
            let key = key.to_string();
            refused.push(proto::Refused { key, reason });
        }
    }

    /// Puts the port in force, and binds it if it is new. Errors if it cannot be bound, or if parts
    /// of it, which are left out then, cannot be used.
    fn publish_port(&self, state: &mut StoreState, port: &GatewayPort) -> Result<(), String> {
        let at @ (transport, number) = (port.transport(), port.port);
        let mut faults = Vec::new();
        match state.ports.get(&at).cloned() {
            Some(watched) => {
                let before = watched.load();
                let resolved = self.resolve_port(state, port, Some(&before), &mut faults);
                watched.store(resolved);
            }
            None => {
                let socket = bind(transport, number)?;
                let resolved = self.resolve_port(state, port, None, &mut faults);
                let watched = Arc::new(WatchedPort::new(transport, number, resolved));
                state.ports.insert(at, watched.clone());
                tracing::info!(port = %ResourceKey::Port(transport, number), "listening");
                if let Some(ports) = &self.0.settings.ports {
                    ports.send(BoundPort { watched, socket });
                }
            }
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults.join("; ")),
        }
    }

    fn resolve_port(
        &self,
        state: &mut StoreState,
        port: &GatewayPort,
        before: Option<&ResolvedPort>,
        faults: &mut Vec<String>,
    ) -> ResolvedPort {
        let parent = match &*self.0.gateway.load() {
            Some(gateway) => Parent::Gateway(gateway.id.clone(), port.port),
            None => Parent::None,
        };
        let mut cluster = |id: &ServicePort| state.cluster(id, &self.0.upstream);
        let mut resolver = Resolver {
            cluster: &mut cluster,
            series: &self.0.metrics.requests,
            direction: Direction::Gateway,
            parent,
            services: HashMap::new(),
            resolved: HashMap::new(),
        };
        resolver.port(port, before, faults)
    }

    /// Retries the ports that could not be bound, until dropped.
    pub async fn bind_forever(self) {
        loop {
            tokio::time::sleep(REBIND).await;
            self.retry_bind();
        }
    }

    fn retry_bind(&self) {
        let mut state = self.state();
        let waiting: Vec<_> = state.unbound.keys().copied().collect();
        for at in waiting {
            let Some((version, port)) = state.unbound.remove(&at) else {
                continue;
            };
            let tried = self.publish_port(&mut state, &port);
            if state.ports.contains_key(&at) {
                let key = ResourceKey::Port(at.0, at.1);
                let version = if tried.is_ok() {
                    version
                } else {
                    PARTIAL_VERSION
                };
                state.versions.insert(key, version);
                let _ = self.0.requests.send(Request::Resubscribe);
            } else {
                state.unbound.insert(at, (version, port));
            }
        }
    }
}

fn bind(transport: Transport, number: u16) -> Result<PortSocket, String> {
    let address = (std::net::Ipv6Addr::UNSPECIFIED, number).into();
    let bound = match transport {
        Transport::Tcp => socket::tcp(address).map(PortSocket::Tcp),
        Transport::Udp => socket::udp(address).map(PortSocket::Udp),
    };
    bound.map_err(|error| {
        format!(
            "listening on {transport} port {number}: {error}; check that nothing else in the pod has the port \
             (15020 and 15021 are the proxy's own)"
        )
    })
}
