//! Services, ServiceImports, EndpointSlices, pods, nodes and namespaces.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::lenient::or_default;
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`; empty means `ClusterIP`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// `None` for a headless Service.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    /// `IPv4` and `IPv6`, the primary family first.
    #[serde(deserialize_with = "or_default")]
    pub ip_families: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePortSpec>,
    /// Labels of the pods; empty if endpoints are written by somebody else.
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    /// `Cluster` (also when empty) or `Local`.
    #[serde(deserialize_with = "or_default")]
    pub internal_traffic_policy: String,
    /// `None` (also when empty) or `ClientIP`.
    #[serde(deserialize_with = "or_default")]
    pub session_affinity: String,
    #[serde(deserialize_with = "or_default")]
    pub session_affinity_config: SessionAffinityConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "or_default")]
    pub client_ip: ClientIpConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// 1 to 86400; absent: 10800.
    pub timeout_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePortSpec {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `TCP` (also when empty), `UDP` or `SCTP`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(deserialize_with = "or_default")]
    pub app_protocol: String,
    pub port: i64,
    /// Port of the pods; absent means the same as `port`.
    pub target_port: Option<PortRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    #[serde(deserialize_with = "or_default")]
    pub ingress: Vec<Ingress>,
}

/// Where a load balancer accepts connections: an IP or a host name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    /// `VIP` (also when empty), or `Proxy`: connections from inside the cluster have to pass the
    /// load balancer as well.
    #[serde(deserialize_with = "or_default")]
    pub ip_mode: String,
}

/// A Service of the cluster set, from the Multi-Cluster Services API (KEP-1645), group
/// `multicluster.x-k8s.io`: v1beta1 and v1alpha1 have the same fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceImport {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceImportSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceImportSpec {
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<String>,
    /// As in Services.
    #[serde(deserialize_with = "or_default")]
    pub ip_families: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePortSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name` names the Service,
    /// `multicluster.kubernetes.io/service-name` the ServiceImport.
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "or_default")]
    pub address_type: String,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<SlicePort>,
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<EndpointAddress>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// Name of the Service port.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    pub port: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointAddress {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
    pub target_ref: Option<TargetRef>,
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub zone: String,
    #[serde(deserialize_with = "or_default")]
    pub hints: EndpointHints,
}

/// Topology hints: the clients that an endpoint is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    #[serde(deserialize_with = "or_default")]
    pub for_zones: Vec<HintFor>,
    #[serde(deserialize_with = "or_default")]
    pub for_nodes: Vec<HintFor>,
}

/// The name of a zone or a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HintFor {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// Absent: `ready` and `serving` count as true, `terminating` as false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// The object that an endpoint belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Empty means `default`.
    #[serde(deserialize_with = "or_default")]
    pub service_account_name: String,
    /// Empty while the pod is not scheduled.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub host_network: bool,
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: String,
    /// Arguments of `weft-injector redirect`; empty for other programs, whose arguments can be
    /// long.
    #[serde(rename = "args", deserialize_with = "redirect_args")]
    pub redirect_args: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
    pub startup_probe: Option<Handler>,
    pub readiness_probe: Option<Handler>,
    pub liveness_probe: Option<Handler>,
    #[serde(deserialize_with = "or_default")]
    pub lifecycle: Lifecycle,
}

fn redirect_args<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let args: Vec<String> = or_default(from)?;
    let redirects = args.first().is_some_and(|verb| verb == "redirect");
    Ok(if redirects { args } else { Vec::new() })
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub container_port: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
}

/// A request of the kubelet to a container. Handlers that open no connection to the pod are left
/// out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    pub http_get: Option<HttpGet>,
    pub grpc: Option<GrpcAction>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpGet {
    /// Path and query; empty means `/`.
    #[serde(deserialize_with = "or_default")]
    pub path: String,
    pub port: PortRef,
    /// Empty means the pod's IP.
    #[serde(deserialize_with = "or_default")]
    pub host: String,
    /// `HTTP` (also when empty) or `HTTPS`.
    #[serde(deserialize_with = "or_default")]
    pub scheme: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GrpcAction {
    pub port: i64,
}

/// A port of a container, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(i64),
    Name(String),
}

impl Default for PortRef {
    fn default() -> Self {
        Self::Number(0)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pub pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
    /// Addresses of the node: the first one, and all of them.
    #[serde(rename = "hostIP", deserialize_with = "or_default")]
    pub host_ip: String,
    #[serde(rename = "hostIPs", deserialize_with = "or_default")]
    pub host_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
}

/// Label of a node with the name of its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Meta,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    pub metadata: Meta,
}
