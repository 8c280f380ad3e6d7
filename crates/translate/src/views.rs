//! What clients see at each cluster IP and port: the Service with the routes that bind them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_ir::{Backend, RouteKind, Routing, Rule, Service, ServicePort, WeightedBackend};

use crate::attach::{Attachment, Attachments};
use crate::mesh::PortView;
use crate::routes::{Route, Rules};
use crate::services::{Frontend, PortInfo, Services};

/// Routes with their Services, in the order that decides ties.
pub(crate) type Routes<'a> = [(Route<'a>, Vec<Attachment<'a>>)];

pub(crate) fn views(
    services: &Services,
    routes: &Routes<'_>,
    attached: &Attachments,
) -> HashMap<SocketAddr, Arc<PortView>> {
    let mut views = HashMap::new();
    for (id, service) in services.iter() {
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

/// One kind of route alone, that which goes before the others (GEP-1294, "Route types").
pub(crate) fn routing(members: &BTreeSet<usize>, routes: &Routes<'_>) -> Routing {
    let routes = || members.iter().map(|place| &routes[*place].0);
    let Some(first) = routes().min_by_key(|route| route.id.kind) else {
        return Routing::Http(Vec::new());
    };
    let of_kind = || routes().filter(|route| route.id.kind == first.id.kind);
    let rules = || -> Vec<Rule> {
        let rules = of_kind().flat_map(|route| match &route.rules {
            Rules::Requests(rules) => rules.as_slice(),
            Rules::Tls(_) | Rules::Bytes(_) => &[],
        });
        rules.map(|compiled| compiled.rule.clone()).collect()
    };
    match &first.rules {
        Rules::Requests(_) if first.id.kind == RouteKind::Grpc => Routing::Grpc(rules()),
        Rules::Requests(_) => Routing::Http(rules()),
        Rules::Tls(_) => {
            let rules = of_kind().filter_map(|route| match &route.rules {
                Rules::Tls(rule) => rule.as_ref(),
                Rules::Requests(_) | Rules::Bytes(_) => None,
            });
            Routing::Tls(rules.map(|compiled| compiled.rule.clone()).collect())
        }
        // Nothing tells connections apart: the first route takes all.
        Rules::Bytes(compiled) => Routing::Tcp(compiled.rule.clone()),
    }
}

fn direct(id: &ServicePort) -> Routing {
    Routing::Direct(vec![WeightedBackend {
        weight: 1,
        backend: Backend::Service(id.clone()),
        filters: Vec::new(),
    }])
}
