//! What is translated: the objects of the cluster, and the settings of the mesh.

use std::sync::Arc;

use ipnet::IpNet;
use weft_ir::{Mode, TrustDomain};

use crate::objects;

/// The cluster at one moment. The order of objects means nothing.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub services: Vec<Arc<objects::Service>>,
    /// `None`: the cluster does not have the kind.
    pub service_imports: Option<Vec<Arc<objects::ServiceImport>>>,
    pub endpoint_slices: Vec<Arc<objects::EndpointSlice>>,
    pub pods: Vec<Arc<objects::Pod>>,
    pub namespaces: Vec<Arc<objects::Namespace>>,
    pub nodes: Vec<Arc<objects::Node>>,
    pub http_routes: Vec<Arc<objects::HttpRoute>>,
    pub grpc_routes: Vec<Arc<objects::GrpcRoute>>,
    pub tls_routes: Vec<Arc<objects::TlsRoute>>,
    pub tcp_routes: Vec<Arc<objects::TcpRoute>>,
    pub udp_routes: Vec<Arc<objects::UdpRoute>>,
    pub gateway_classes: Vec<Arc<objects::GatewayClass>>,
    pub gateways: Vec<Arc<objects::Gateway>>,
    pub listener_sets: Vec<Arc<objects::ListenerSet>>,
    pub reference_grants: Vec<Arc<objects::ReferenceGrant>>,
    pub backend_tls_policies: Vec<Arc<objects::BackendTlsPolicy>>,
    /// Those of type `kubernetes.io/tls`, and those that others of these objects refer to.
    pub secrets: Vec<Arc<objects::Secret>>,
    /// Those that others of these objects refer to.
    pub config_maps: Vec<Arc<objects::ConfigMap>>,
    pub cluster_trust_bundles: Vec<Arc<objects::ClusterTrustBundle>>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    /// Of pods that neither have the annotation `weft.dev/mtls` nor are in a namespace that has it.
    pub mode: Mode,
    /// With strict, no annotation makes a pod permissive.
    pub mode_floor: Mode,
    /// `weft.dev/mesh-controller`.
    pub controller_name: String,
    /// `weft.dev/gateway-controller`.
    pub gateway_controller_name: String,
    pub endpoints: EndpointRules,
}

/// Which addresses endpoints may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRules {
    /// Never sent to.
    pub denied: Vec<IpNet>,
    /// Whether Gateways send to addresses outside the cluster. Proxies of the mesh do.
    pub external_at_gateways: bool,
}

impl EndpointRules {
    /// Where clouds answer questions about a machine and its credentials.
    pub const METADATA: [&'static str; 4] = [
        "169.254.169.254/32",
        "fd00:ec2::254/128",
        "168.63.129.16/32",
        "100.100.100.200/32",
    ];
}

impl Default for EndpointRules {
    fn default() -> Self {
        let denied = Self::METADATA.iter().filter_map(|text| text.parse().ok());
        Self {
            denied: denied.collect(),
            external_at_gateways: false,
        }
    }
}
