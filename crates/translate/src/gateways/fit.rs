//! Whether the ports of Gateways have room for their routes.
//!
//! A port is one resource for its proxies. Rules count once on a port, and a host with each listener that has it; the
//! rules of Services that are applied as well count with the first route that leads there. Routes come in the order that
//! decides ties: what does not fit are the youngest, and they are left out of that port alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use weft_ir::{GatewayId, HostPattern, ServicePort, Transport};

use super::attach::{Attached, Attachment, ListenerId, Plans};
use super::composed::Composed;
use crate::conditions::Fault;
use crate::limits::{Budget, Size};
use crate::routes::hosts::Host;
use crate::routes::targets::service_ports;
use crate::routes::{Route, Rules};

/// A port of a Gateway.
type Port = (GatewayId, Transport, u16);

/// What is taken of a port.
struct Held {
    budget: Budget,
    /// Of namespaces other than the Gateway's own.
    by_namespace: HashMap<Arc<str>, Budget>,
    /// Services whose rules are there.
    services: HashSet<ServicePort>,
}

impl Held {
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

/// Leaves routes out of the ports that have no room for them.
pub(crate) fn fit(routes: &mut [Attached], plans: &Plans<'_>, composed: &Composed) {
    let mut ports: HashMap<Port, Held> = HashMap::new();
    for (route, attachments) in routes {
        let mut full: HashMap<Port, String> = HashMap::new();
        for (port, hosts) in hosts_by_port(route, attachments, plans) {
            let held = ports.entry(port.clone()).or_insert_with(|| Held {
                budget: Budget::of_gateway_port(),
                by_namespace: HashMap::new(),
                services: HashSet::new(),
            });
            let services = services(route, composed, &held.services);
            let wanted = wanted(route, &hosts, &services, composed);
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

/// The hosts that a route has on each port, once for each listener.
fn hosts_by_port(
    route: &Route,
    attachments: &[Attachment],
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

/// Of a listener that can be used.
fn port(id: &ListenerId, plans: &Plans<'_>) -> Option<Port> {
    let plan = plans.get(&id.gateway)?;
    let listeners = match id.set {
        None => &plan.own,
        Some(set) => &plan.sets.get(set)?.listeners,
    };
    let socket = listeners.all.get(id.place)?.usable().ok()?;
    Some((id.gateway.clone(), socket.speaks.transport(), socket.port))
}

/// The Services that the route brings to the port with their rules.
fn services(route: &Route, composed: &Composed, known: &HashSet<ServicePort>) -> Vec<ServicePort> {
    let Rules::Requests(rules) = &route.rules else {
        return Vec::new();
    };
    let named = rules.iter().flat_map(|of| service_ports(&of.rule.backends));
    let new: BTreeSet<ServicePort> = named
        .filter(|id| composed.size(id).is_some() && !known.contains(id))
        .collect();
    new.into_iter().collect()
}

fn wanted(route: &Route, hosts: &[usize], services: &[ServicePort], composed: &Composed) -> Size {
    let copies = match &route.rules {
        // In the port's table, once.
        Rules::Requests(_) => 1,
        Rules::Tls(_) | Rules::Bytes(_) => hosts.len(),
    };
    let mut wanted = Size {
        bytes: route.size.bytes * copies + hosts.iter().sum::<usize>(),
        compiled: route.size.compiled,
    };
    for size in services.iter().filter_map(|id| composed.size(id)) {
        wanted.bytes += size.bytes;
        wanted.compiled += size.compiled;
    }
    wanted
}

fn leave_out(attachment: &mut Attachment, full: &HashMap<Port, String>, plans: &Plans<'_>) {
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

/// What a host of a listener adds for a route that is there: its name, the places of the rules, and where each of their
/// matches stands among all of the host's.
fn host_bytes(route: &Route, name_bytes: usize) -> usize {
    let (rules, matches) = match &route.rules {
        Rules::Requests(rules) => {
            let matches = rules.iter().map(|of| of.rule.matches.len());
            (rules.len(), matches.sum())
        }
        Rules::Tls(_) | Rules::Bytes(_) => (1, 0),
    };
    16 + name_bytes + 5 * rules + 8 * matches
}
