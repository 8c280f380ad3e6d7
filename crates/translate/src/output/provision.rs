//! What is to be created for a Gateway: its Deployment, Service, ServiceAccount and what goes with them, purely decided.
//!
//! Source: GEP-1762 (names and labels), GEP-1867 (infrastructure).

use std::collections::BTreeMap;

use weft_ir::{GatewayId, Transport};

use super::gateways::Address;

/// For an accepted Gateway of ours. What stands for one that is no longer accepted is left as it is, until it, or its
/// class, goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Provision {
    pub gateway: GatewayId,
    /// The Gateway's, for the owner references.
    pub uid: String,
    pub class: String,
    /// Of every object, in the Gateway's namespace; of the account too.
    pub name: String,
    /// For every object but pods: those of `spec.infrastructure`, and above them [`GATEWAY_LABEL`] and [`CLASS_LABEL`].
    pub labels: BTreeMap<String, String>,
    /// For every object but pods.
    pub annotations: BTreeMap<String, String>,
    /// Those of [`Provision::labels`] that pods get.
    pub pod_labels: BTreeMap<String, String>,
    /// Those of [`Provision::annotations`] that pods get.
    pub pod_annotations: BTreeMap<String, String>,
    /// Keys of labels and annotations that pods do not get, by their domains.
    pub kept_off_pods: Vec<String>,
    pub service: ServiceProvision,
    pub scaling: Scaling,
    pub resources: Resources,
    /// For how long a pod that ends still takes connections, in seconds: what leads to it learns in its own time.
    pub outside_grace: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceProvision {
    pub kind: ServiceType,
    /// By transport and number; never empty.
    pub ports: Vec<ProvisionPort>,
    /// Those that the Gateway asks for by value.
    pub addresses: Vec<Address>,
    /// The ClusterIP that it is to have; `None`: any.
    pub cluster_ip: Option<String>,
    pub external_traffic_policy: TrafficPolicy,
    /// For the Service alone, beside those for every object.
    pub annotations: BTreeMap<String, String>,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    LoadBalancer,
    NodePort,
    ClusterIp,
}

impl ServiceType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    /// Nodes without a pod of the gateway take no connections; clients' addresses are kept.
    Local,
}

impl TrafficPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// The proxy listens on the same number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProvisionPort {
    pub port: u16,
    pub transport: Transport,
    /// `tcp-443` or `udp-53`.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    Fixed(u32),
    Auto {
        min: u32,
        max: u32,
        /// The share of the CPU that pods ask for, in percent.
        cpu_percent: u32,
    },
}

impl Default for Scaling {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

/// Quantities of the proxy's container, by resource: `cpu`, `memory`. Empty: as the controller is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}
