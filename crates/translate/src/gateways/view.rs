//! The configuration of a gateway as its proxies get it.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::{
    ConnectionRule, Gateway, GatewayPort, ServicePort, Serving, TlsServing, VirtualHost,
};

use crate::routes::targets::{rule_targets, server, service_ports};

/// The configuration for all proxies of a Gateway. Immutable and cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayView {
    /// Settings of the gateway as a whole.
    pub gateway: Arc<Gateway>,
    /// Ordered by transport and number.
    pub ports: Vec<Arc<GatewayPort>>,
}

impl GatewayView {
    /// Returns the endpoint sets that a proxy needs along with the ports, as gateways see them.
    pub fn references(&self) -> BTreeSet<ServicePort> {
        let mut all = BTreeSet::new();
        for port in &self.ports {
            let own = port.services.iter().flat_map(|of| &of.rules);
            all.extend(own.flat_map(|rule| rule_targets(rule)));
            match &port.serving {
                Serving::Http(listeners) => {
                    let filters = listeners.iter().flat_map(|of| &of.external_auth);
                    all.extend(filters.filter_map(server));
                    let hosts = listeners.iter().flat_map(|listener| &listener.hosts);
                    all.extend(hosts.flat_map(host_targets));
                }
                Serving::Tls(listeners) => {
                    for listener in listeners {
                        match &listener.serving {
                            TlsServing::Http {
                                tls: _,
                                external_auth,
                                hosts,
                            } => {
                                all.extend(external_auth.iter().filter_map(server));
                                all.extend(hosts.iter().flat_map(host_targets));
                            }
                            TlsServing::Terminate { tls: _, rules }
                            | TlsServing::Passthrough { rules } => {
                                let rules = rules.iter().map(|rule| &rule.rule);
                                all.extend(rules.flat_map(connection_targets));
                            }
                        }
                    }
                }
                Serving::Tcp(listener) | Serving::Udp(listener) => {
                    all.extend(listener.rule.iter().flat_map(connection_targets));
                }
            }
        }
        all
    }
}

fn host_targets(host: &VirtualHost) -> impl Iterator<Item = ServicePort> + '_ {
    host.rules.iter().flat_map(|rule| rule_targets(rule))
}

fn connection_targets(rule: &ConnectionRule) -> impl Iterator<Item = ServicePort> + '_ {
    service_ports(&rule.backends)
}
