//! Kubernetes objects -> the mesh, its gateways and the status of every object; the mesh and a client -> its resources.
//!
//! Pure: no client, clock or async. Whatever users write yields a mesh and conditions, never an error.
//!
//! Source: Gateway API v1.6.3, GEP-1294 and GEP-1324 (routes whose parent is a Service) and the comments of the types.

pub mod objects;

mod attach;
mod bypass;
mod endpoints;
mod gateways;
mod limits;
mod memo;
mod mesh;
mod modes;
mod pods;
mod probes;
mod reach;
mod routes;
mod services;
mod sets;
mod slices;
mod status;
mod translator;
mod views;
mod zones;

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::{Mode, TrustDomain};

pub use gateways::GatewayView;
pub use gateways::missing::MissingParents;
pub use gateways::provision::{
    CLASS_LABEL, GATEWAY_LABEL, Provision, ProvisionPort, Resources, Scaling, ServiceProvision,
    ServiceType, TrafficPolicy,
};
pub use gateways::status::{
    Address, AddressKind, AncestorStatus, GatewayClassStatus, GatewayStatus, ListenerSetStatus,
    ListenerStatus, PolicyStatus, Routability, RouteGroupKind,
};
pub use mesh::{Mesh, PodFacts};
pub use reach::EndpointRules;
pub use status::{Condition, Controller, ParentStatus, RouteStatus};
pub use translator::Translator;

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

#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    pub mesh: Mesh,
    /// Of the routes that have a parent of ours, by kind, namespace and name. As with the mesh, one that says what it said
    /// before is in the same `Arc`.
    pub statuses: Vec<Arc<RouteStatus>>,
    /// Of those that are ours, by name.
    pub gateway_classes: Vec<GatewayClassStatus>,
    /// Of those that are ours, by name.
    pub gateways: Vec<GatewayStatus>,
    /// Of those whose Gateway is ours, by name.
    pub listener_sets: Vec<ListenerSetStatus>,
    /// Of BackendTLSPolicies, by name.
    pub policies: Vec<PolicyStatus>,
    /// For the accepted Gateways, by name.
    pub provisions: Vec<Provision>,
    /// Of routes, by kind, namespace and name, where a class is ours.
    pub missing_parents: Vec<MissingParents>,
    /// What users wrote and is not in force, where no status says so: for the log.
    pub warnings: BTreeSet<String>,
}

/// The mesh that `objects` describe, and what is to be said of each route.
pub fn translate(objects: &Objects, settings: &Settings) -> Translation {
    Translator::new(settings.clone()).translate(objects)
}

/// [`Translation::provisions`] alone, for a controller that sees no more of the cluster than these need: classes, Gateways,
/// ListenerSets, namespaces, ConfigMaps, ClusterTrustBundles and ReferenceGrants. Everything else may be absent.
pub fn provisions(objects: &Objects, gateway_controller_name: &str) -> Vec<Provision> {
    gateways::provisions(objects, gateway_controller_name)
}
