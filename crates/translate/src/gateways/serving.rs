//! The ports of a gateway as its proxies get them: usable listeners with the rules of their routes.
//!
//! Source: `GatewaySpec.listeners`; rules are in the order of their routes
//! (`Listener.allowedRoutes`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::{
    ConnectionRule, GatewayPort, HttpListener, ServiceRules, Serving, StreamListener, TlsListener,
    TlsRule, TlsServing, Transport, VirtualHost,
};

use super::attach::{GatewayRoute, ListenerId};
use super::listeners::{BoundListener, ListenerProtocol, ListenerSocket};
use super::plans::GatewayPlan;
use super::service_rules::AppliedServiceRules;
use crate::routes::hosts::Host;
use crate::routes::targets::service_ports;
use crate::routes::{Route, Rules};

/// The routes of each listener with their hosts there, in tie-breaking order. A route that selects
/// a listener twice appears once.
pub(crate) type ByListener<'r> = HashMap<&'r ListenerId, Vec<(&'r Route, &'r [Host])>>;

pub(crate) fn by_listener(routes: &[GatewayRoute]) -> ByListener<'_> {
    let mut all = ByListener::new();
    for (route, attachments) in routes {
        let listeners = attachments
            .iter()
            .filter_map(|of| of.listeners.as_ref().ok());
        for (id, hosts) in listeners.flatten() {
            let held: &mut Vec<(&Route, &[Host])> = all.entry(id).or_default();
            if held.last().is_none_or(|(last, _)| last.id != route.id) {
                held.push((route, hosts));
            }
        }
    }
    all
}

/// Ordered by transport and number.
pub(crate) fn ports(
    plan: &GatewayPlan<'_>,
    routes: &ByListener<'_>,
    service_rules: &AppliedServiceRules,
) -> Vec<GatewayPort> {
    let mut ports = OpenPorts::default();
    let none = Vec::new();
    let own = plan
        .own
        .all
        .iter()
        .enumerate()
        .map(|(position, of)| (None, position, of));
    let sets = plan.sets.iter().enumerate().flat_map(|(set, of)| {
        let listeners = of.listeners.all.iter().enumerate();
        listeners.map(move |(position, of)| (Some(set), position, of))
    });
    for (set, position, bound) in own.chain(sets) {
        let Ok(socket) = bound.usable() else { continue };
        let id = ListenerId {
            gateway: plan.owned.id.clone(),
            set,
            position,
        };
        let routes = routes.get(&id).unwrap_or(&none);
        ports.add(socket, bound, routes);
    }
    for bound in plan.listeners() {
        if let Some(socket) = bound.closed_socket() {
            ports.add_closed(socket, bound);
        }
    }
    let ports = ports.0.into_iter();
    ports
        .map(|((_, port), serving)| GatewayPort {
            port,
            services: services(&serving, service_rules),
            serving,
        })
        .collect()
}

/// Returns the own rules of the Services that requests are sent to.
fn services(serving: &Serving, service_rules: &AppliedServiceRules) -> Vec<Arc<ServiceRules>> {
    if service_rules.is_empty() {
        return Vec::new();
    }
    let mut hosts: Vec<&VirtualHost> = Vec::new();
    match serving {
        Serving::Http(listeners) => hosts.extend(listeners.iter().flat_map(|of| &of.hosts)),
        Serving::Tls(listeners) => {
            for listener in listeners {
                if let TlsServing::Http { hosts: of, .. } = &listener.serving {
                    hosts.extend(of);
                }
            }
        }
        Serving::Tcp(_) | Serving::Udp(_) => {}
    }
    let rules = hosts.into_iter().flat_map(|host| &host.rules);
    service_rules.rules(
        &rules
            .flat_map(|rule| service_ports(&rule.backends))
            .collect(),
    )
}

/// What is served on each port so far.
#[derive(Default)]
struct OpenPorts(BTreeMap<(Transport, u16), Serving>);

impl OpenPorts {
    /// All listeners of a port are of one family; others have a conflict.
    fn add(
        &mut self,
        socket: &ListenerSocket,
        bound: &BoundListener<'_>,
        routes: &[(&Route, &[Host])],
    ) {
        let key = (socket.protocol.transport(), socket.port);
        let name = Arc::clone(&bound.label);
        let hostname = socket.hostname.clone();
        if socket.protocol == ListenerProtocol::Http {
            let listener = HttpListener {
                name,
                hostname,
                external_auth: bound.filters.all.clone(),
                hosts: virtual_hosts(routes),
            };
            let serving = self
                .0
                .entry(key)
                .or_insert_with(|| Serving::Http(Vec::new()));
            if let Serving::Http(listeners) = serving {
                listeners.push(listener);
            }
            return;
        }
        let serving = match (socket.protocol, &bound.tls) {
            (ListenerProtocol::Tcp | ListenerProtocol::Udp, _) => {
                let rule = routes.first().and_then(|(route, _)| connection_rule(route));
                let listener = StreamListener { name, rule };
                let serving = match key.0 {
                    Transport::Tcp => Serving::Tcp(listener),
                    Transport::Udp => Serving::Udp(listener),
                };
                self.0.entry(key).or_insert(serving);
                return;
            }
            (ListenerProtocol::Https, Some(tls)) => TlsServing::Http {
                tls: tls.clone(),
                external_auth: bound.filters.all.clone(),
                hosts: virtual_hosts(routes),
            },
            (ListenerProtocol::TlsTerminate, Some(tls)) => TlsServing::Terminate {
                tls: tls.clone(),
                rules: tls_rules(routes),
            },
            (ListenerProtocol::TlsPassthrough, _) => TlsServing::Passthrough {
                rules: tls_rules(routes),
            },
            _ => return,
        };
        let port = self
            .0
            .entry(key)
            .or_insert_with(|| Serving::Tls(Vec::new()));
        if let Serving::Tls(listeners) = port {
            listeners.push(TlsListener {
                name,
                hostname,
                serving,
            });
        }
    }

    /// Adds a listener without routes to a port that other listeners serve, so that they do not get
    /// its traffic.
    fn add_closed(&mut self, socket: &ListenerSocket, bound: &BoundListener<'_>) {
        let name = Arc::clone(&bound.label);
        let hostname = socket.hostname.clone();
        match self.0.get_mut(&(socket.protocol.transport(), socket.port)) {
            Some(Serving::Http(listeners)) => listeners.push(HttpListener {
                name,
                hostname,
                external_auth: Vec::new(),
                hosts: Vec::new(),
            }),
            Some(Serving::Tls(listeners)) => listeners.push(TlsListener {
                name,
                hostname,
                serving: TlsServing::Passthrough { rules: Vec::new() },
            }),
            Some(Serving::Tcp(_) | Serving::Udp(_)) | None => {}
        }
    }
}

/// Ordered by host name; any host comes first.
fn virtual_hosts(routes: &[(&Route, &[Host])]) -> Vec<VirtualHost> {
    let mut hosts: BTreeMap<String, VirtualHost> = BTreeMap::new();
    for (route, on) in routes {
        let Rules::Requests(rules) = &route.rules else {
            continue;
        };
        for host in *on {
            let key = host.as_ref().map(ToString::to_string).unwrap_or_default();
            let at = hosts.entry(key).or_insert_with(|| VirtualHost {
                host: host.clone(),
                rules: Vec::new(),
            });
            let rules = rules.iter().map(|compiled| Arc::clone(&compiled.rule));
            at.rules.extend(rules);
        }
    }
    hosts.into_values().collect()
}

/// With the host names of the route that intersect with the listener's.
fn tls_rules(routes: &[(&Route, &[Host])]) -> Vec<TlsRule> {
    let rules = routes.iter().filter_map(|(route, hosts)| {
        let Rules::Tls(Some(compiled)) = &route.rules else {
            return None;
        };
        Some(TlsRule {
            hostnames: hosts.iter().flatten().cloned().collect(),
            rule: compiled.rule.rule.clone(),
        })
    });
    rules.collect()
}

fn connection_rule(route: &Route) -> Option<ConnectionRule> {
    match &route.rules {
        Rules::Connections(compiled) => Some(compiled.rule.clone()),
        Rules::Requests(_) | Rules::Tls(_) => None,
    }
}
