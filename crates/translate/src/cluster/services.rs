//! Services and ServiceImports by name: their addresses, their ports, and the protocols of these.
//!
//! This module does not depend on routes, endpoints or clients. A result is kept for as long as the
//! Service is the same object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_ir::{Backend, Protocol, Routing, Service, ServiceId, ServicePort, WeightedBackend};

use super::protocol::protocol;
use crate::input::Objects;
use crate::memo::{ByIdentity, Memo, ObjectMemo};
use crate::names::GATEWAY_LABEL;
use crate::objects::{
    self, Meta, PortRef, ServiceImportSpec, ServicePortSpec, ServiceSpec, ServiceStatus,
    port_number,
};

/// Every Service and ServiceImport of the cluster.
#[derive(Debug)]
pub(crate) struct Services {
    by_id: HashMap<Arc<ServiceId>, Arc<ServiceInfo>>,
    /// Whether the cluster serves the kind ServiceImport.
    pub(crate) has_imports: bool,
    /// Warnings about invalid annotations, which are treated as absent.
    pub(crate) warnings: BTreeSet<String>,
}

/// Annotation of a Service; `enabled` makes Gateways apply the Service's own routes as well.
const GATEWAY_ROUTES: &str = "weft.dev/gateway-routes";

/// A Service or a ServiceImport.
#[derive(Debug)]
pub(crate) struct ServiceInfo {
    pub(crate) id: Arc<ServiceId>,
    pub(crate) addressing: ServiceAddressing,
    /// TCP ports.
    pub(crate) ports: Vec<PortInfo>,
    /// UDP ports.
    pub(crate) udp: Vec<PortInfo>,
    /// Ports of other transports, for messages.
    other_ports: Vec<(u16, String)>,
    /// Port numbers that are both TCP and UDP with different target ports.
    pub(crate) split: BTreeSet<u16>,
    /// Whether IPv6 is the first of its IP families.
    pub(crate) prefers_ipv6: bool,
    /// Addresses of load balancers that clients in the cluster can bypass.
    pub(crate) load_balancers: Vec<IpAddr>,
    /// Whether clients only see the endpoints of their own node.
    pub(crate) local: bool,
    /// Idle time after which a client loses its session affinity.
    pub(crate) affinity: Option<Duration>,
    /// Whether Gateways apply the Service's own routes as well.
    pub(crate) routes_at_gateways: bool,
    /// The object itself; `None` for a ServiceImport.
    pub(crate) object: Option<Arc<objects::Service>>,
    /// Whether it was created for a Gateway.
    made_for_gateway: bool,
    warning: Option<String>,
}

/// How clients address a Service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServiceAddressing {
    /// By its cluster IPs, or those that the cluster set assigned to a ServiceImport.
    ClusterIp(Vec<IpAddr>),
    /// By DNS, which returns the pods: there is no address to attach routes to.
    Headless,
    /// By a DNS name outside of Kubernetes.
    ExternalName,
    /// No address is assigned yet.
    Pending,
}

/// A port of a Service.
#[derive(Debug)]
pub(crate) struct PortInfo {
    pub(crate) id: Arc<ServicePort>,
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// What clients see if no route is attached.
    pub(crate) direct: Arc<Service>,
}

/// The last state of Services.
#[derive(Debug, Default)]
pub(crate) struct ServiceCache {
    services: ObjectMemo<objects::Service, (), Arc<ServiceInfo>>,
    imports: ObjectMemo<objects::ServiceImport, (), Arc<ServiceInfo>>,
    last: Memo<Inputs, Services>,
}

type Inputs = (
    Vec<ByIdentity<objects::Service>>,
    Option<Vec<ByIdentity<objects::ServiceImport>>>,
);

impl ServiceCache {
    pub(crate) fn update(&mut self, objects: &Objects) -> ByIdentity<Services> {
        let (services, imports) = (&objects.services, objects.service_imports.as_deref());
        let lists = (ByIdentity::all(services), imports.map(ByIdentity::all));
        self.last.get(lists, || {
            let services = self.services.map(services, (), |service| {
                Arc::new(ServiceInfo::service_addresses(service))
            });
            let imported = imports.unwrap_or_default();
            let imported = self.imports.map(imported, (), |import| {
                Arc::new(ServiceInfo::of_import(import))
            });
            let all: Vec<_> = services.into_iter().chain(imported).collect();
            Services {
                has_imports: imports.is_some(),
                warnings: all.iter().filter_map(|of| of.warning.clone()).collect(),
                by_id: all.into_iter().map(|of| (Arc::clone(&of.id), of)).collect(),
            }
        })
    }
}

impl Services {
    pub(crate) fn get(&self, id: &ServiceId) -> Option<&Arc<ServiceInfo>> {
        self.by_id.get(id)
    }

    /// In arbitrary order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ServiceInfo>> {
        self.by_id.values()
    }
}

impl ServiceInfo {
    fn service_addresses(service: &Arc<objects::Service>) -> Self {
        let objects::Service {
            metadata,
            spec,
            status,
        } = service.as_ref();
        let ServiceSpec {
            kind,
            cluster_ip,
            cluster_ips,
            ip_families,
            ports,
            selector: _,
            internal_traffic_policy,
            session_affinity,
            session_affinity_config,
        } = spec;
        let (routes_at_gateways, warning) = match gateway_routes(metadata) {
            Ok(routes_at_gateways) => (routes_at_gateways, None),
            Err(warning) => (false, Some(warning)),
        };
        let id = ServiceId::new(&*metadata.namespace, &*metadata.name);
        let addressing = addressing(kind, cluster_ip, cluster_ips);
        let by_address = matches!(addressing, ServiceAddressing::ClusterIp(_));
        let timeout = session_affinity_config.client_ip.timeout_seconds;
        Self {
            load_balancers: load_balancers(kind, status),
            local: by_address && internal_traffic_policy == "Local",
            affinity: (by_address && session_affinity == "ClientIP").then(|| affinity(timeout)),
            routes_at_gateways,
            warning,
            object: Some(Arc::clone(service)),
            made_for_gateway: metadata.labels.contains_key(GATEWAY_LABEL),
            ..Self::new(id, addressing, ip_families, ports)
        }
    }

    fn of_import(import: &objects::ServiceImport) -> Self {
        let objects::ServiceImport { metadata, spec } = import;
        let ServiceImportSpec {
            kind,
            ips,
            ip_families,
            ports,
        } = spec;
        let id = ServiceId::import(&*metadata.namespace, &*metadata.name);
        let addressing = match kind.as_str() {
            "Headless" => ServiceAddressing::Headless,
            _ => addressed(ips.iter().map(String::as_str)),
        };
        Self::new(id, addressing, ip_families, ports)
    }

    fn new(
        id: ServiceId,
        addressing: ServiceAddressing,
        ip_families: &[String],
        ports: &[ServicePortSpec],
    ) -> Self {
        let prefers_ipv6 = match (&addressing, ip_families.first()) {
            (_, Some(family)) => family == "IPv6",
            (ServiceAddressing::ClusterIp(addresses), None) => {
                addresses.first().is_some_and(IpAddr::is_ipv6)
            }
            _ => false,
        };
        let mut tcp = Vec::new();
        let mut udp = Vec::new();
        let mut other_ports = Vec::new();
        let mut targets: BTreeMap<(u16, bool), i64> = BTreeMap::new();
        for spec in ports {
            let ServicePortSpec {
                name,
                protocol: transport,
                app_protocol,
                port,
                target_port,
            } = spec;
            let Some(number) = port_number(*port) else {
                continue;
            };
            let is_tcp = matches!(transport.as_str(), "" | "TCP");
            match target_port {
                None => drop(targets.insert((number, is_tcp), *port)),
                Some(PortRef::Number(target)) => drop(targets.insert((number, is_tcp), *target)),
                Some(PortRef::Name(_)) => {}
            }
            if is_tcp {
                tcp.push(PortInfo::new(
                    &id,
                    number,
                    name,
                    protocol(app_protocol, name),
                ));
            } else {
                if transport == "UDP" {
                    udp.push(PortInfo::new(&id, number, name, Protocol::Tcp));
                }
                other_ports.push((number, transport.clone()));
            }
        }
        let split = udp.iter().map(|port| port.number).filter(|number| {
            let targets = (
                targets.get(&(*number, true)),
                targets.get(&(*number, false)),
            );
            matches!(targets, (Some(tcp), Some(udp)) if tcp != udp)
        });
        Self {
            id: Arc::new(id),
            addressing,
            split: split.collect(),
            ports: tcp,
            udp,
            other_ports,
            prefers_ipv6,
            load_balancers: Vec::new(),
            local: false,
            affinity: None,
            routes_at_gateways: false,
            object: None,
            made_for_gateway: false,
            warning: None,
        }
    }

    /// Returns the object if it was created for a Gateway.
    pub(crate) fn of_gateway(&self) -> Option<&Arc<objects::Service>> {
        self.object.as_ref().filter(|_| self.made_for_gateway)
    }

    pub(crate) fn port(&self, number: i64) -> Option<&PortInfo> {
        self.ports
            .iter()
            .find(|port| i64::from(port.number) == number)
    }

    /// Like [`ServiceInfo::port`], for UDP.
    pub(crate) fn udp_port(&self, number: i64) -> Option<&PortInfo> {
        self.udp
            .iter()
            .find(|port| i64::from(port.number) == number)
    }

    /// Returns the transport of a port that is not TCP.
    pub(crate) fn other_transport(&self, number: u16) -> Option<&str> {
        let mut ports = self.other_ports.iter();
        let (_, transport) = ports.find(|(port, _)| *port == number)?;
        Some(transport)
    }

    /// Describes the ports for a message: `80 (http), 8080, 53 (UDP)`.
    pub(crate) fn describe_ports(&self) -> String {
        let tcp = self.ports.iter().map(|port| match port.name.as_str() {
            "" => port.number.to_string(),
            name => format!("{} ({name})", port.number),
        });
        let other = self
            .other_ports
            .iter()
            .map(|(number, transport)| format!("{number} ({transport})"));
        let all: Vec<String> = tcp.chain(other).collect();
        if all.is_empty() {
            "no ports".to_owned()
        } else {
            all.join(", ")
        }
    }
}

impl PortInfo {
    fn new(service: &ServiceId, number: u16, name: &str, protocol: Protocol) -> Self {
        let id = ServicePort {
            service: service.clone(),
            port: number,
        };
        let itself = WeightedBackend {
            weight: 1,
            backend: Backend::Service(id.clone()),
            filters: Vec::new(),
        };
        Self {
            id: Arc::new(id.clone()),
            number,
            name: name.to_owned(),
            protocol,
            direct: Arc::new(Service {
                id,
                protocol,
                routing: Routing::Direct(vec![itself]),
            }),
        }
    }
}

/// Returns a warning as the error. It quotes at most 64 characters, since anybody can write the
/// annotation.
fn gateway_routes(meta: &Meta) -> Result<bool, String> {
    match meta.annotations.get(GATEWAY_ROUTES).map(String::as_str) {
        None | Some("disabled") => Ok(false),
        Some("enabled") => Ok(true),
        Some(other) => {
            let value: String = other.chars().take(64).collect();
            let Meta {
                namespace, name, ..
            } = meta;
            Err(format!(
                "Service {namespace}/{name}: annotation {GATEWAY_ROUTES} is {value:?} and must be \
                 enabled or disabled; Gateways apply only their own routes"
            ))
        }
    }
}

fn addressing(kind: &str, cluster_ip: &str, cluster_ips: &[String]) -> ServiceAddressing {
    if kind == "ExternalName" {
        return ServiceAddressing::ExternalName;
    }
    let texts: Vec<&str> = if cluster_ips.is_empty() {
        vec![cluster_ip]
    } else {
        cluster_ips.iter().map(String::as_str).collect()
    };
    if texts.contains(&"None") {
        return ServiceAddressing::Headless;
    }
    addressed(texts.into_iter())
}

fn addressed<'a>(texts: impl Iterator<Item = &'a str>) -> ServiceAddressing {
    let addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    if addresses.is_empty() {
        ServiceAddressing::Pending
    } else {
        ServiceAddressing::ClusterIp(addresses)
    }
}

/// `externalIPs` are not used: whoever can create a Service can write any address there, including
/// that of someone else's server.
fn load_balancers(kind: &str, status: &ServiceStatus) -> Vec<IpAddr> {
    if kind != "LoadBalancer" {
        return Vec::new();
    }
    let ingress = status.load_balancer.ingress.iter();
    let direct = ingress.filter(|of| of.ip_mode != "Proxy");
    direct.filter_map(|of| of.ip.parse().ok()).collect()
}

/// The API server accepts 1 s to 24 h.
fn affinity(timeout_seconds: Option<i64>) -> Duration {
    const DEFAULT: u64 = 10_800;
    let seconds = timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(seconds.unwrap_or(DEFAULT).clamp(1, 86_400))
}
