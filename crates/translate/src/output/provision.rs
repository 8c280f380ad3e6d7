//! The infrastructure of a Gateway: what to create as its Deployment, Service, ServiceAccount and
//! the objects that go with them.
//!
//! Source: GEP-1762 (names and labels), GEP-1867 (infrastructure).

use std::collections::BTreeMap;

use weft_ir::{GatewayId, Transport};

use super::gateways::Address;

/// The infrastructure of an accepted Gateway. The objects of a Gateway that is no longer accepted
/// stay unchanged until the Gateway or its class is deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Provision {
    /// The Gateway.
    pub gateway: GatewayId,
    /// UID of the Gateway, for owner references.
    pub uid: String,
    /// Name of its class.
    pub class: String,
    /// Name of every object, including the service account; all are in the Gateway's namespace.
    pub name: String,
    /// Labels of every object except pods: those of `spec.infrastructure`, overridden by
    /// [`GATEWAY_LABEL`](crate::GATEWAY_LABEL) and [`CLASS_LABEL`](crate::CLASS_LABEL).
    pub labels: BTreeMap<String, String>,
    /// Annotations of every object except pods.
    pub annotations: BTreeMap<String, String>,
    /// The subset of [`Provision::labels`] that pods get.
    pub pod_labels: BTreeMap<String, String>,
    /// The subset of [`Provision::annotations`] that pods get.
    pub pod_annotations: BTreeMap<String, String>,
    /// Keys of labels and annotations that pods do not get because of their domain.
    pub kept_off_pods: Vec<String>,
    /// The Service to create.
    pub service: ServiceProvision,
    /// Number of replicas.
    pub scaling: Scaling,
    /// Resources of the proxy container.
    pub resources: Resources,
    /// How long a terminating pod still accepts connections, in seconds, so that load balancers
    /// have time to stop using it.
    pub outside_grace: u32,
}

/// The Service of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceProvision {
    /// `spec.type`.
    pub kind: ServiceType,
    /// Ordered by transport and number; never empty.
    pub ports: Vec<ProvisionPort>,
    /// Addresses that the Gateway requests by value.
    pub addresses: Vec<Address>,
    /// The requested ClusterIP, or `None` for any.
    pub cluster_ip: Option<String>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: ExternalTrafficPolicy,
    /// Annotations of the Service only, in addition to those of every object.
    pub annotations: BTreeMap<String, String>,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<String>,
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// `LoadBalancer`.
    #[default]
    LoadBalancer,
    /// `NodePort`.
    NodePort,
    /// `ClusterIP`.
    ClusterIp,
}

impl ServiceType {
    /// Returns the value of `spec.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

/// The external traffic policy of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalTrafficPolicy {
    /// Every node accepts connections.
    #[default]
    Cluster,
    /// Nodes without a pod of the gateway accept no connections, and client addresses are
    /// preserved.
    Local,
}

impl ExternalTrafficPolicy {
    /// Returns the value of `spec.externalTrafficPolicy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// A port of the Service. The proxy listens on the same number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProvisionPort {
    /// Number of the port.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// `tcp-443` or `udp-53`.
    pub name: String,
}

/// The number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// A fixed number.
    Fixed(u32),
    /// A range that a HorizontalPodAutoscaler adjusts within.
    Auto {
        /// Minimum number of replicas.
        min: u32,
        /// Maximum number of replicas.
        max: u32,
        /// Target CPU utilization of the autoscaler, in percent of the requested CPU.
        cpu_percent: u32,
    },
}

impl Default for Scaling {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

/// Resources of the proxy container as Kubernetes quantities, by resource name (`cpu`, `memory`).
/// Where empty, the defaults of the controller apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Requested resources.
    pub requests: BTreeMap<String, String>,
    /// Resource limits.
    pub limits: BTreeMap<String, String>,
}
