//! What clients see at each cluster IP and port: the Service with the routes that bind them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_ir::{Backend, RouteKind, Routing, Rule, Service, ServicePort, WeightedBackend};

use crate::attach::{Attachment, Attachments};
use crate::mesh::PortView;
use crate::routes::Route;
use crate::services::{Frontend, PortInfo, Services};

type Routes<'a> = [(Route<'a>, Vec<Attachment<'a>>)];

pub(crate) fn views(
    services: &Services,
    routes: &Routes<'_>,
    attached: &Attachments,
) -> HashMap<SocketAddr, Arc<PortView>> {
    let mut views = HashMap::new();
    for (id, service) in services {
        let Frontend::ClusterIp(addresses) = &service.frontend else {
            continue;
        };
        for port in &service.ports {
            let id = ServicePort {
                service: id.clone(),
                port: port.number,
            };
            let view = Arc::new(view(&id, port, routes, attached));
            for address in addresses {
                let address = SocketAddr::new(*address, port.number);
                views.entry(address).or_insert_with(|| Arc::clone(&view));
            }
        }
    }
    views
}

fn view(
    id: &ServicePort,
    port: &PortInfo,
    routes: &Routes<'_>,
    attached: &Attachments,
) -> PortView {
    let service = |routing| {
        Arc::new(Service {
            id: id.clone(),
            protocol: port.protocol,
            routing,
        })
    };
    let mut producer = None;
    let mut consumers = BTreeMap::new();
    for (group, members) in attached.groups(id) {
        let service = service(routing(members, routes));
        match group {
            None => producer = Some(service),
            Some(namespace) => {
                consumers.insert(namespace.clone(), service);
            }
        }
    }
    PortView {
        producer: producer.unwrap_or_else(|| service(direct(id))),
        consumers,
    }
}

/// One kind of route alone: a GRPCRoute goes before all HTTPRoutes (GEP-1294, "Route types").
fn routing(members: &BTreeSet<usize>, routes: &Routes<'_>) -> Routing {
    let rules_of = |kind: RouteKind| -> Vec<Rule> {
        members
            .iter()
            .map(|place| &routes[*place].0)
            .filter(|route| route.id.kind == kind)
            .flat_map(|route| route.rules.iter().map(|compiled| compiled.rule.clone()))
            .collect()
    };
    let has_grpc = |place: &usize| routes[*place].0.id.kind == RouteKind::Grpc;
    if members.iter().any(has_grpc) {
        Routing::Grpc(rules_of(RouteKind::Grpc))
    } else {
        Routing::Http(rules_of(RouteKind::Http))
    }
}

fn direct(id: &ServicePort) -> Routing {
    Routing::Direct(vec![WeightedBackend {
        weight: 1,
        backend: Backend::Service(id.clone()),
        filters: Vec::new(),
    }])
}
