//! The addresses of a Gateway: those that it asks for, and those that its Service has.
//!
//! Source: `GatewaySpec.addresses`, `GatewayStatus.addresses`, the comments of `GatewayConditionReason`; GEP-5093 on
//! routability: `Cluster` is a ClusterIP, and what is asked for is never replaced by an address of another reach.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::conditions::Fault;
use crate::objects::{GatewayAddress, Ingress, Lenient, Meta, Service, ServiceSpec};
use crate::output::{Address, AddressKind, Routability, ServiceType};

/// What a Gateway asks for.
#[derive(Debug, Default)]
pub(crate) struct Requested(Vec<Request>);

#[derive(Debug)]
struct Request {
    kind: AddressKind,
    /// `None`: any of the kind.
    value: Option<String>,
    /// Or a value that is not supported.
    routability: Result<Routability, String>,
}

impl Requested {
    /// Those that a load balancer is to give.
    pub(crate) fn of_load_balancer(&self) -> Vec<Address> {
        let outside = self.0.iter().filter(|of| of.is_outside());
        outside.filter_map(Request::address).collect()
    }

    /// The ClusterIP that the Service is to have.
    pub(crate) fn cluster_ip(&self) -> Option<String> {
        let mut inside = self
            .0
            .iter()
            .filter(|of| of.routability == Ok(Routability::Cluster));
        inside.find_map(|of| of.value.clone())
    }

    /// The type of the Service: where all is to stay in the cluster, nothing is opened to the outside.
    pub(crate) fn service_type(&self, wished: ServiceType) -> ServiceType {
        if self.0.is_empty() || self.0.iter().any(Request::is_outside) {
            wished
        } else {
            ServiceType::ClusterIp
        }
    }
}

impl Request {
    fn is_outside(&self) -> bool {
        matches!(
            self.routability,
            Ok(Routability::Unspecified | Routability::Sentinel)
        )
    }

    fn address(&self) -> Option<Address> {
        Some(Address {
            kind: self.kind,
            value: self.value.clone()?,
            routability: Routability::Unspecified,
        })
    }
}

/// Errors where a type is not supported, or a value is none of its type.
pub(crate) fn requested(specs: &[Lenient<GatewayAddress>]) -> Result<Requested, Fault> {
    let read = |(place, entry): (usize, &Lenient<GatewayAddress>)| {
        request(entry).map_err(|why| Fault {
            reason: "UnsupportedAddress",
            text: format!("spec.addresses[{place}]: {why}"),
        })
    };
    let all = specs.iter().enumerate().map(read);
    all.collect::<Result<_, _>>().map(Requested)
}

fn request(entry: &Lenient<GatewayAddress>) -> Result<Request, String> {
    let GatewayAddress {
        kind,
        value,
        routability,
    } = entry.as_ref()?;
    let kind = match kind.as_deref() {
        None | Some("IPAddress") => AddressKind::Ip,
        Some("Hostname") => AddressKind::Hostname,
        Some(other) => {
            return Err(format!(
                "type {other:?} is not supported; supported are IPAddress, Hostname"
            ));
        }
    };
    let value = match (kind, value.as_str()) {
        (_, "") => None,
        (AddressKind::Ip, value) => match value.parse::<IpAddr>() {
            Ok(address) => Some(address.to_string()),
            Err(_) => return Err(format!("{value:?} is not an IP address")),
        },
        (AddressKind::Hostname, value) => Some(value.to_owned()),
    };
    let known = [
        Routability::Unspecified,
        Routability::Cluster,
        Routability::Sentinel,
    ];
    let known = known.into_iter().find(|of| of.as_str() == routability);
    Ok(Request {
        kind,
        value,
        routability: known.ok_or_else(|| routability.clone()),
    })
}

/// Whether it is one of the Service's, in any way.
pub(crate) fn is_of(address: &Address, service: &Service) -> bool {
    let kinds = [ServiceType::LoadBalancer, ServiceType::ClusterIp];
    let same = |of: &Address| of.kind == address.kind && of.value == address.value;
    kinds
        .iter()
        .any(|kind| of_service(service, *kind).iter().any(same))
}

/// Those of the Gateway's Service: a load balancer's, else its cluster IPs.
pub(crate) fn of_service(service: &Service, kind: ServiceType) -> BTreeSet<Address> {
    let routability = match kind {
        ServiceType::LoadBalancer => Routability::Unspecified,
        ServiceType::NodePort | ServiceType::ClusterIp => Routability::Cluster,
    };
    let ip = |text: &String| {
        let address = text.parse::<IpAddr>().ok()?;
        Some(Address {
            kind: AddressKind::Ip,
            value: address.to_string(),
            routability,
        })
    };
    if kind != ServiceType::LoadBalancer {
        let ServiceSpec {
            cluster_ip,
            cluster_ips,
            ..
        } = &service.spec;
        return cluster_ips
            .iter()
            .chain([cluster_ip])
            .filter_map(ip)
            .collect();
    }
    let ingress = service.status.load_balancer.ingress.iter();
    let each = ingress.flat_map(
        |Ingress {
             ip: address,
             hostname,
             ip_mode: _,
         }| {
            let hostname = (!hostname.is_empty()).then(|| Address {
                kind: AddressKind::Hostname,
                value: hostname.clone(),
                routability,
            });
            ip(address).into_iter().chain(hostname)
        },
    );
    each.collect()
}

/// What of a Service answers what was asked for.
#[derive(Debug)]
pub(crate) struct Assigned {
    /// One for each request that is answered; where nothing was asked for, all.
    pub(crate) addresses: BTreeSet<Address>,
    /// Why others are not.
    missing: Vec<Fault>,
    /// The first fault that stands in the way of the Gateway, whatever else it has.
    hindrance: Option<Fault>,
}

impl Assigned {
    /// Errors decide about Programmed.
    pub(crate) fn usable(&self) -> Result<(), Fault> {
        match (&self.hindrance, self.missing.first()) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Some(fault)) if self.addresses.is_empty() => Err(fault.clone()),
            (None, _) => Ok(()),
        }
    }

    /// The condition AddressesAssigned: errors are its reason and message.
    pub(crate) fn complete(&self) -> Result<(), Fault> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let texts: Vec<&str> = self.missing.iter().map(|of| &*of.text).collect();
        Err(Fault {
            reason: match self.addresses.is_empty() {
                true => "NotAssigned",
                false => "PartiallyAssigned",
            },
            text: texts.join("; "),
        })
    }
}

/// `has` is what the Service shows by its type, `inside` its ClusterIPs. `holder` finds the other Service that has an
/// address.
pub(crate) fn assign<'a>(
    requested: &Requested,
    has: &BTreeSet<Address>,
    inside: &BTreeSet<Address>,
    holder: impl Fn(&Address) -> Option<&'a Service>,
) -> Assigned {
    let mut assigned = Assigned {
        addresses: BTreeSet::new(),
        missing: Vec::new(),
        hindrance: None,
    };
    if requested.0.is_empty() {
        assigned.addresses.clone_from(has);
        assigned.missing.extend(has.is_empty().then(none_yet));
        return assigned;
    }
    let (nothing, mut taken) = (BTreeSet::new(), Vec::<&Address>::new());
    // Values first: a request for any address leaves them.
    let with_value = requested.0.iter().filter(|of| of.value.is_some());
    let without = requested.0.iter().filter(|of| of.value.is_none());
    let mut lost: Vec<Address> = Vec::new();
    for request in with_value.chain(without) {
        let candidates = match request.routability {
            Ok(Routability::Cluster) => inside,
            Ok(Routability::Unspecified | Routability::Sentinel) => has,
            Err(_) => &nothing,
        };
        let fits = |of: &&Address| {
            let value = request.value.as_ref();
            of.kind == request.kind && value.is_none_or(|value| *value == of.value)
        };
        let mut candidates = candidates.iter().filter(fits);
        match candidates.find(|of| !taken.contains(of)) {
            Some(found) => {
                taken.push(found);
                assigned.addresses.insert(Address {
                    routability: match request.routability {
                        Ok(Routability::Sentinel) => Routability::Sentinel,
                        _ => found.routability,
                    },
                    ..found.clone()
                });
            }
            None if request.is_outside() && request.value.is_some() => {
                lost.extend(request.address());
            }
            None => {
                let fault = unanswered(request, has, inside);
                if request.is_outside() {
                    assigned.hindrance.get_or_insert_with(|| fault.clone());
                }
                assigned.missing.push(fault);
            }
        }
    }
    if !lost.is_empty() {
        let fault = not_to_be_had(&lost, has, holder);
        assigned.missing.insert(0, fault.clone());
        assigned.hindrance = Some(fault);
    }
    assigned
}

fn list<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> String {
    let all: Vec<&str> = addresses.into_iter().map(|of| of.value.as_str()).collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

fn none_yet() -> Fault {
    let text = "no address is assigned to the Gateway's Service yet; with type LoadBalancer something in the cluster must \
                assign one: a cloud's controller, or MetalLB";
    Fault {
        reason: "AddressNotAssigned",
        text: text.to_owned(),
    }
}

fn not_to_be_had<'a>(
    lost: &[Address],
    has: &BTreeSet<Address>,
    holder: impl Fn(&Address) -> Option<&'a Service>,
) -> Fault {
    let held = lost.iter().filter_map(|address| {
        let Meta {
            namespace, name, ..
        } = &holder(address)?.metadata;
        Some(format!(
            "{}: Service {namespace}/{name} has it; ",
            address.value
        ))
    });
    let text = format!(
        "{} of spec.addresses cannot be had: the Service has {}; {}ask for addresses that the load balancer has left, or \
         remove them",
        list(lost),
        list(has),
        held.collect::<String>()
    );
    Fault {
        reason: "AddressNotUsable",
        text,
    }
}

fn unanswered(request: &Request, has: &BTreeSet<Address>, inside: &BTreeSet<Address>) -> Fault {
    let kind = request.kind.as_str();
    let text = match (&request.routability, &request.value) {
        (Err(other), _) => format!(
            "spec.addresses asks for routability {other:?}, which is not supported; supported are Cluster, and none"
        ),
        (Ok(Routability::Cluster), Some(value)) => format!(
            "spec.addresses asks for {value} with routability Cluster; the ClusterIP of the Service is {}",
            list(inside)
        ),
        (Ok(Routability::Cluster), None) => format!(
            "spec.addresses asks for one of type {kind} with routability Cluster; the ClusterIP of the Service is {}",
            list(inside)
        ),
        (Ok(_), _) if has.is_empty() => return none_yet(),
        (Ok(_), _) => format!(
            "spec.addresses asks for one of type {kind}; the Service has {}",
            list(has)
        ),
    };
    Fault {
        reason: "AddressNotAssigned",
        text,
    }
}
