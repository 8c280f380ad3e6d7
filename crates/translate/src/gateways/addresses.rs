//! The addresses of a Gateway: those that it asks for, and those that its Service has.
//!
//! Source: `GatewaySpec.addresses`, `GatewayStatus.addresses`, the comments of `GatewayConditionReason`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::provision::ServiceType;
use super::status::{Address, AddressKind};
use crate::objects::{GatewayAddress, Ingress, Lenient, Meta, Service, ServiceSpec};
use crate::routes::Fault;

/// What a Gateway asks for.
#[derive(Debug, Default)]
pub(crate) struct Requested {
    pub(crate) values: Vec<Address>,
    /// Any address of these types will do.
    pub(crate) any: Vec<AddressKind>,
}

/// Errors where a type is not supported, or a value is none of its type.
pub(crate) fn requested(specs: &[Lenient<GatewayAddress>]) -> Result<Requested, Fault> {
    let refuse = |place: usize, why: &str| {
        let text = format!("spec.addresses[{place}]: {why}");
        Err(Fault {
            reason: "UnsupportedAddress",
            text,
        })
    };
    let mut all = Requested::default();
    for (place, entry) in specs.iter().enumerate() {
        let GatewayAddress { kind, value } = match entry.as_ref() {
            Ok(spec) => spec,
            Err(why) => return refuse(place, why),
        };
        let kind = match kind.as_deref() {
            None | Some("IPAddress") => AddressKind::Ip,
            Some("Hostname") => AddressKind::Hostname,
            Some(other) => {
                let why =
                    format!("type {other:?} is not supported; supported are IPAddress, Hostname");
                return refuse(place, &why);
            }
        };
        match (kind, value.as_str()) {
            (kind, "") => all.any.push(kind),
            (AddressKind::Ip, value) => match value.parse::<IpAddr>() {
                Ok(address) => all.values.push(Address {
                    kind,
                    value: address.to_string(),
                }),
                Err(_) => return refuse(place, &format!("{value:?} is not an IP address")),
            },
            (AddressKind::Hostname, value) => all.values.push(Address {
                kind,
                value: value.to_owned(),
            }),
        }
    }
    Ok(all)
}

/// Whether it is one of the Service's, in any way.
pub(crate) fn is_of(address: &Address, service: &Service) -> bool {
    let kinds = [ServiceType::LoadBalancer, ServiceType::ClusterIp];
    kinds
        .iter()
        .any(|kind| of_service(service, *kind).contains(address))
}

/// Those of the Gateway's Service: a load balancer's, else its cluster IPs.
pub(crate) fn of_service(service: &Service, kind: ServiceType) -> BTreeSet<Address> {
    let ip = |text: &String| {
        let address = text.parse::<IpAddr>().ok()?;
        Some(Address {
            kind: AddressKind::Ip,
            value: address.to_string(),
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
            });
            ip(address).into_iter().chain(hostname)
        },
    );
    each.collect()
}

/// Whether what there is suits what was asked for. `holder` finds the other Service that has an address.
pub(crate) fn assigned<'a>(
    requested: &Requested,
    has: &BTreeSet<Address>,
    holder: impl Fn(&Address) -> Option<&'a Service>,
) -> Result<(), Fault> {
    let list = |addresses: &mut dyn Iterator<Item = &Address>| -> String {
        let all: Vec<&str> = addresses.map(|of| of.value.as_str()).collect();
        if all.is_empty() {
            "none".to_owned()
        } else {
            all.join(", ")
        }
    };
    let missing: Vec<&Address> = requested
        .values
        .iter()
        .filter(|of| !has.contains(of))
        .collect();
    if !missing.is_empty() {
        let held = missing.iter().filter_map(|address| {
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
            list(&mut missing.iter().copied()),
            list(&mut has.iter()),
            held.collect::<String>()
        );
        return Err(Fault {
            reason: "AddressNotUsable",
            text,
        });
    }
    if has.is_empty() {
        let text = "no address is assigned to the Gateway's Service yet; with type LoadBalancer something in the cluster must \
                    assign one: a cloud's controller, or MetalLB";
        return Err(Fault {
            reason: "AddressNotAssigned",
            text: text.to_owned(),
        });
    }
    match requested
        .any
        .iter()
        .find(|kind| has.iter().all(|of| of.kind != **kind))
    {
        None => Ok(()),
        Some(kind) => Err(Fault {
            reason: "AddressNotAssigned",
            text: format!(
                "spec.addresses asks for one of type {}; the Service has {}",
                kind.as_str(),
                list(&mut has.iter())
            ),
        }),
    }
}
