//! Enforces the limits on the size of the routes on a Gateway port.
//!
//! A port is one resource for its proxies. Rules count once for each port, and a host once for each
//! listener that has it; the rules of Services that are applied as well count with the first route
//! that leads to the Service. Routes come in tie-breaking order: the youngest ones are those that
//! do not fit, and they are left out of that port only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use weft_ir::{GatewayId, HostPattern, ServicePort, Transport};

use super::attach::{GatewayRoute, ListenerAttachment, ListenerId, Plans};
use super::service_rules::AppliedServiceRules;
use crate::conditions::Fault;
use crate::limits::{Budget, Size};
use crate::routes::hosts::Host;
use crate::routes::targets::service_ports;
use crate::routes::{Route, Rules};

/// A port of a Gateway.
type Port = (GatewayId, Transport, u16);

/// The used capacity of a port.
struct PortUsage {
    budget: Budget,
    /// Used by the routes of namespaces other than the Gateway's own.
    by_namespace: HashMap<Arc<str>, Budget>,
    /// Services whose own rules are part of the port.
    services: HashSet<ServicePort>,
}

impl PortUsage {
    fn take(
        &mut self,
        wanted: Size,
        namespace: Option<&Arc<str>>,
        port: &str,
    ) -> Result<(), String> {
        let Some(namespace) = namespace else {
            return self.budget.take(wanted, port);
        };
        let share = self.by_namespace.entry(namespace.clone());
        let share = share.or_insert_with(Budget::of_namespace);
        share.with(
            wanted,
            &format!("the share of namespace {namespace} of {port}"),
        )?;
        self.budget.take(wanted, port)?;
        share.take(wanted, port)
    }
}

/// Removes routes from the ports that have no room for them.
pub(crate) fn enforce(
    routes: &mut [GatewayRoute],
    plans: &Plans<'_>,
    service_rules: &AppliedServiceRules,
) {
    let mut ports: HashMap<Port, PortUsage> = HashMap::new();
    for (route, attachments) in routes {
        let mut full: HashMap<Port, String> = HashMap::new();
        for (port, hosts) in hosts_by_port(route, attachments, plans) {
            let held = ports.entry(port.clone()).or_insert_with(|| PortUsage {
                budget: Budget::of_gateway_port(),
                by_namespace: HashMap::new(),
                services: HashSet::new(),
            });
            let services = services(route, service_rules, &held.services);
            let wanted = wanted(route, &hosts, &services, service_rules);
            let (id, transport, number) = &port;
            let name = format!("port {number}/{transport} of Gateway {id}");
            let namespace = (*id.namespace != *route.id.namespace).then_some(&route.id.namespace);
            match held.take(wanted, namespace, &name) {
                Ok(()) => held.services.extend(services),
                Err(why) => drop(full.insert(port, why)),
            }
        }
        if !full.is_empty() {
            for attachment in attachments {
                leave_out(attachment, &full, plans);
            }
        }
    }
}

/// Returns the size of a route's hosts on each port, for each listener.
fn hosts_by_port(
    route: &Route,
    attachments: &[ListenerAttachment],
    plans: &Plans<'_>,
) -> BTreeMap<Port, Vec<usize>> {
    let mut all: BTreeMap<Port, Vec<usize>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let listeners = attachments
        .iter()
        .filter_map(|of| of.listeners.as_ref().ok());
    for (id, hosts) in listeners.flatten() {
        let Some(port) = port(id, plans).filter(|_| seen.insert(id)) else {
            continue;
        };
        let name = |host: &Host| host.as_ref().map_or(0, HostPattern::wire_size);
        let bytes = hosts.iter().map(|host| host_bytes(route, name(host)));
        all.entry(port).or_default().push(bytes.sum());
    }
    all
}

/// Returns the port of a usable listener.
fn port(id: &ListenerId, plans: &Plans<'_>) -> Option<Port> {
    let plan = plans.get(&id.gateway)?;
    let listeners = match id.set {
        None => &plan.own,
        Some(set) => &plan.sets.get(set)?.listeners,
    };
    let socket = listeners.all.get(id.position)?.usable().ok()?;
    Some((id.gateway.clone(), socket.protocol.transport(), socket.port))
}

/// Returns the Services whose rules the route adds to the port.
fn services(
    route: &Route,
    service_rules: &AppliedServiceRules,
    known: &HashSet<ServicePort>,
) -> Vec<ServicePort> {
    let Rules::Requests(rules) = &route.rules else {
        return Vec::new();
    };
    let named = rules.iter().flat_map(|of| service_ports(&of.rule.backends));
    let new: BTreeSet<ServicePort> = named
        .filter(|id| service_rules.size(id).is_some() && !known.contains(id))
        .collect();
    new.into_iter().collect()
}

fn wanted(
    route: &Route,
    hosts: &[usize],
    services: &[ServicePort],
    service_rules: &AppliedServiceRules,
) -> Size {
    let copies = match &route.rules {
        // Once, in the rule table of the port.
        Rules::Requests(_) => 1,
        Rules::Tls(_) | Rules::Connections(_) => hosts.len(),
    };
    let mut wanted = Size {
        bytes: route.size.bytes * copies + hosts.iter().sum::<usize>(),
        compiled: route.size.compiled,
    };
    for size in services.iter().filter_map(|id| service_rules.size(id)) {
        wanted.bytes += size.bytes;
        wanted.compiled += size.compiled;
    }
    wanted
}

fn leave_out(attachment: &mut ListenerAttachment, full: &HashMap<Port, String>, plans: &Plans<'_>) {
    let Ok(listeners) = &mut attachment.listeners else {
        return;
    };
    let mut why = BTreeSet::new();
    listeners.retain(|(id, _)| {
        let no_room = port(id, plans).and_then(|port| full.get(&port));
        why.extend(no_room.cloned());
        no_room.is_none()
    });
    if listeners.is_empty() {
        let why: Vec<String> = why.into_iter().collect();
        attachment.listeners = Err(Fault {
            reason: "PortFull",
            text: why.join("; "),
        });
    } else {
        attachment.full.extend(why);
    }
}

/// Returns the size that a host of a listener adds for a route: its name, the indexes of the rules,
/// and the positions of their matches among all matches of the host.
fn host_bytes(route: &Route, name_bytes: usize) -> usize {
    let (rules, matches) = match &route.rules {
        Rules::Requests(rules) => {
            let matches = rules.iter().map(|of| of.rule.matches.len());
            (rules.len(), matches.sum())
        }
        Rules::Tls(_) | Rules::Connections(_) => (1, 0),
    };
    16 + name_bytes + 5 * rules + 8 * matches
}
