//! Kubernetes objects -> the mesh, its gateways and the status of every object; the mesh and a client -> its resources.
//!
//! Pure: no client, clock or async. Whatever users write yields a mesh and conditions, never an error.
//!
//! Source: Gateway API v1.6.3, GEP-1294 and GEP-1324 (routes whose parent is a Service) and the comments of the types.

pub mod objects;

mod backend_tls;
mod cluster;
mod conditions;
mod gateways;
mod input;
mod limits;
mod memo;
mod mesh;
mod names;
mod output;
mod references;
mod routes;
mod service_routes;
mod translator;

pub use gateways::GatewayView;
pub use gateways::missing::MissingParents;
pub use input::{EndpointRules, Objects, Settings};
pub use mesh::{Mesh, PodFacts};
pub use names::{CLASS_LABEL, GATEWAY_LABEL};
pub use output::{
    Address, AddressKind, AncestorStatus, Condition, Controller, GatewayClassStatus, GatewayStatus,
    ListenerSetStatus, ListenerStatus, ParentStatus, PolicyStatus, Provision, ProvisionPort,
    Resources, Routability, RouteGroupKind, RouteStatus, Scaling, ServiceProvision, ServiceType,
    TrafficPolicy,
};
pub use translator::{Translation, Translator, provisions, translate};
