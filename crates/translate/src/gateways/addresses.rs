//! The addresses of a Gateway: those that it requests, and those that its Service has.
//!
//! Source: `GatewaySpec.addresses`, `GatewayStatus.addresses`, the comments of
//! `GatewayConditionReason`. GEP-5093 on routability: `Cluster` is a ClusterIP, and a request is
//! never satisfied by an address of another routability.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::conditions::Fault;
use crate::objects::{GatewayAddress, Ingress, Lenient, Meta, Service, ServiceSpec};
use crate::output::{Address, AddressKind, Routability, ServiceType};

/// The addresses that a Gateway requests.
#[derive(Debug, Default)]
pub(crate) struct RequestedAddresses(Vec<Request>);

#[derive(Debug)]
struct Request {
    kind: AddressKind,
    /// `None` for any address of the type.
    value: Option<String>,
    /// The error is an unsupported value.
    routability: Result<Routability, String>,
}

impl RequestedAddresses {
    /// Returns the addresses to request from a load balancer.
    pub(crate) fn of_load_balancer(&self) -> Vec<Address> {
        let outside = self.0.iter().filter(|of| of.is_outside());
        outside.filter_map(Request::address).collect()
    }

    /// Returns the ClusterIP to request for the Service.
    pub(crate) fn cluster_ip(&self) -> Option<String> {
        let mut inside = self
            .0
            .iter()
            .filter(|of| of.routability == Ok(Routability::Cluster));
        inside.find_map(|of| of.value.clone())
    }

    /// Returns the type of the Service: if only cluster-internal addresses are requested, nothing
    /// is exposed outside.
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

/// Returns a fault if a type is not supported or a value is invalid for its type.
pub(crate) fn requested(specs: &[Lenient<GatewayAddress>]) -> Result<RequestedAddresses, Fault> {
    let read = |(position, entry): (usize, &Lenient<GatewayAddress>)| {
        request(entry).map_err(|why| Fault {
            reason: "UnsupportedAddress",
            text: format!("spec.addresses[{position}]: {why}"),
        })
    };
    let all = specs.iter().enumerate().map(read);
    all.collect::<Result<_, _>>().map(RequestedAddresses)
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
                "type {other:?} is not supported; supported types are IPAddress, Hostname"
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

/// Returns true if the Service has the address in any way.
pub(crate) fn belongs_to(address: &Address, service: &Service) -> bool {
    let kinds = [ServiceType::LoadBalancer, ServiceType::ClusterIp];
    let same = |of: &Address| of.kind == address.kind && of.value == address.value;
    kinds
        .iter()
        .any(|kind| service_addresses(service, *kind).iter().any(same))
}

/// Returns the addresses of a Gateway's Service: those of its load balancer, or its cluster IPs.
pub(crate) fn service_addresses(service: &Service, kind: ServiceType) -> BTreeSet<Address> {
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

/// The requests that the Service satisfies.
#[derive(Debug)]
pub(crate) struct AssignedAddresses {
    /// One address for each satisfied request; all addresses if none was requested.
    pub(crate) addresses: BTreeSet<Address>,
    /// Faults of the requests that are not satisfied.
    missing: Vec<Fault>,
    /// The first fault that prevents the Gateway from being programmed, whatever other addresses it
    /// has.
    blocking: Option<Fault>,
}

impl AssignedAddresses {
    /// Errors are the reason and message of Programmed=False.
    pub(crate) fn usable(&self) -> Result<(), Fault> {
        match (&self.blocking, self.missing.first()) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Some(fault)) if self.addresses.is_empty() => Err(fault.clone()),
            (None, _) => Ok(()),
        }
    }

    /// Errors are the reason and message of AddressesAssigned=False.
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

/// `has` are the addresses that the Service has by its type, `inside` its ClusterIPs. `holder`
/// returns another Service that has an address.
pub(crate) fn assign<'a>(
    requested: &RequestedAddresses,
    has: &BTreeSet<Address>,
    inside: &BTreeSet<Address>,
    holder: impl Fn(&Address) -> Option<&'a Service>,
) -> AssignedAddresses {
    let mut assigned = AssignedAddresses {
        addresses: BTreeSet::new(),
        missing: Vec::new(),
        blocking: None,
    };
    if requested.0.is_empty() {
        assigned.addresses.clone_from(has);
        assigned
            .missing
            .extend(has.is_empty().then(not_assigned_yet));
        return assigned;
    }
    let (nothing, mut taken) = (BTreeSet::new(), Vec::<&Address>::new());
    // Requests by value come first, so that requests for any address do not take theirs.
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
                    assigned.blocking.get_or_insert_with(|| fault.clone());
                }
                assigned.missing.push(fault);
            }
        }
    }
    if !lost.is_empty() {
        let fault = unavailable(&lost, has, holder);
        assigned.missing.insert(0, fault.clone());
        assigned.blocking = Some(fault);
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

fn not_assigned_yet() -> Fault {
    let text = "the Gateway's Service has no address yet; a Service of type LoadBalancer needs a controller \
     that assigns one, such as a cloud provider's or MetalLB";
    Fault {
        reason: "AddressNotAssigned",
        text: text.to_owned(),
    }
}

fn unavailable<'a>(
    lost: &[Address],
    has: &BTreeSet<Address>,
    holder: impl Fn(&Address) -> Option<&'a Service>,
) -> Fault {
    let held = lost.iter().filter_map(|address| {
        let Meta {
            namespace, name, ..
        } = &holder(address)?.metadata;
        Some(format!(
            "{} is used by Service {namespace}/{name}; ",
            address.value
        ))
    });
    let text = format!(
        "{} of spec.addresses cannot be assigned: the Service has {}; {}request addresses that \
         the load balancer has available, or remove them",
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
            "spec.addresses requests routability {other:?}, which is not supported; use Cluster \
             or leave it out"
        ),
        (Ok(Routability::Cluster), Some(value)) => format!(
            "spec.addresses requests {value} with routability Cluster; the ClusterIP of the \
             Service is {}",
            list(inside)
        ),
        (Ok(Routability::Cluster), None) => format!(
            "spec.addresses requests an address of type {kind} with routability Cluster; the \
             ClusterIP of the Service is {}",
            list(inside)
        ),
        (Ok(_), _) if has.is_empty() => return not_assigned_yet(),
        (Ok(_), _) => format!(
            "spec.addresses requests an address of type {kind}; the Service has {}",
            list(has)
        ),
    };
    Fault {
        reason: "AddressNotAssigned",
        text,
    }
}
