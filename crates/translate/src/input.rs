//! The input of a translation: the objects of the cluster, and the settings of the mesh.

use std::sync::Arc;

use ipnet::IpNet;
use weft_ir::{DefaultAuthorization, Mode, TrustDomain};

use crate::objects;

/// The state of the cluster at one moment. The order of objects has no meaning.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Services.
    pub services: Vec<Arc<objects::Service>>,
    /// `None` if the cluster does not serve the kind.
    pub service_imports: Option<Vec<Arc<objects::ServiceImport>>>,
    /// EndpointSlices.
    pub endpoint_slices: Vec<Arc<objects::EndpointSlice>>,
    /// Pods.
    pub pods: Vec<Arc<objects::Pod>>,
    /// Namespaces.
    pub namespaces: Vec<Arc<objects::Namespace>>,
    /// Nodes.
    pub nodes: Vec<Arc<objects::Node>>,
    /// HTTPRoutes.
    pub http_routes: Vec<Arc<objects::HttpRoute>>,
    /// GRPCRoutes.
    pub grpc_routes: Vec<Arc<objects::GrpcRoute>>,
    /// TLSRoutes.
    pub tls_routes: Vec<Arc<objects::TlsRoute>>,
    /// TCPRoutes.
    pub tcp_routes: Vec<Arc<objects::TcpRoute>>,
    /// UDPRoutes.
    pub udp_routes: Vec<Arc<objects::UdpRoute>>,
    /// GatewayClasses.
    pub gateway_classes: Vec<Arc<objects::GatewayClass>>,
    /// Gateways.
    pub gateways: Vec<Arc<objects::Gateway>>,
    /// ListenerSets.
    pub listener_sets: Vec<Arc<objects::ListenerSet>>,
    /// ReferenceGrants.
    pub reference_grants: Vec<Arc<objects::ReferenceGrant>>,
    /// BackendTLSPolicies.
    pub backend_tls_policies: Vec<Arc<objects::BackendTlsPolicy>>,
    /// AuthorizationPolicies.
    pub authorization_policies: Vec<Arc<objects::AuthorizationPolicy>>,
    /// ClusterAuthorizationPolicies.
    pub cluster_authorization_policies: Vec<Arc<objects::ClusterAuthorizationPolicy>>,
    /// AuthenticationPolicies.
    pub authentication_policies: Vec<Arc<objects::AuthenticationPolicy>>,
    /// The key sets that were fetched for them ([`crate::Translation::key_sources`]).
    pub fetched_keys: Vec<Arc<objects::FetchedKeys>>,
    /// TrafficPolicies.
    pub traffic_policies: Vec<Arc<objects::TrafficPolicy>>,
    /// FaultFilters.
    pub fault_filters: Vec<Arc<objects::FaultFilter>>,
    /// XBackendTrafficPolicies.
    pub backend_traffic_policies: Vec<Arc<objects::BackendTrafficPolicy>>,
    /// Secrets of type `kubernetes.io/tls`, and those that another object refers to.
    pub secrets: Vec<Arc<objects::Secret>>,
    /// ConfigMaps that another object refers to.
    pub config_maps: Vec<Arc<objects::ConfigMap>>,
    /// ClusterTrustBundles.
    pub cluster_trust_bundles: Vec<Arc<objects::ClusterTrustBundle>>,
}

/// The settings of the mesh.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// mTLS mode of pods that have no annotation `weft.dev/mtls`, neither on the pod nor on its
    /// namespace.
    pub mode: Mode,
    /// Minimum mTLS mode: if strict, no annotation makes a pod permissive.
    pub mode_floor: Mode,
    /// Who may call pods that no `ALLOW` policy targets, in namespaces without the annotation
    /// `weft.dev/authorization-default`.
    pub authorization: DefaultAuthorization,
    /// The least strict default that a namespace can choose.
    pub authorization_floor: DefaultAuthorization,
    /// Controller name in the statuses of policies and of routes on Services,
    /// `weft.dev/mesh-controller`.
    pub controller_name: String,
    /// Controller name of the managed GatewayClasses, `weft.dev/gateway-controller`.
    pub gateway_controller_name: String,
    /// Which addresses endpoints may have.
    pub endpoints: EndpointRules,
    /// Namespace of the control plane, whose policies can target the whole mesh.
    pub namespace: String,
}

/// Which addresses endpoints may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRules {
    /// Networks that nothing is sent to.
    pub denied: Vec<IpNet>,
    /// Whether Gateways send to addresses outside the cluster. Proxies of the mesh always do.
    pub external_at_gateways: bool,
}

impl EndpointRules {
    /// Addresses of the metadata services of clouds, which hand out credentials of the machine.
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
