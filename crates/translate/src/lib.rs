//! Translates Kubernetes objects into the configuration of the mesh and its gateways, and into the
//! status of every object.
//!
//! The crate is pure: it has no client, no clock and no async code. Whatever users write results in
//! a mesh and conditions, never in an error.
//!
//! [`Translator::translate`] takes the [`Objects`] of the cluster and the [`Settings`] of the mesh.
//! Its [`Translation`] holds the [`Mesh`], which answers what the proxy of one client needs, and
//! the statuses to write.
//!
//! Source: Gateway API v1.6.3, GEP-1294 and GEP-1324 (routes whose parent is a Service) and the
//! comments of the API types.

#![warn(missing_docs)]

#[allow(
    missing_docs,
    reason = "fields have the names and the meaning of the Kubernetes APIs"
)]
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
mod policies;
mod references;
mod routes;
mod selectors;
mod service_routes;
mod traffic;
mod translator;

pub use gateways::GatewayView;
pub use gateways::missing::MissingParents;
pub use input::{EndpointRules, Objects, Settings};
pub use mesh::{Mesh, PodFacts};
pub use names::{CLASS_LABEL, GATEWAY_LABEL};
pub use output::{
    Address, AddressKind, AncestorStatus, AuthorizationStatus, Condition, Controller,
    ExternalTrafficPolicy, GatewayClassStatus, GatewayStatus, ListenerSetStatus, ListenerStatus,
    ParentStatus, PolicyStatus, Provision, ProvisionPort, Resources, Routability, RouteGroupKind,
    RouteStatus, Scaling, ServiceProvision, ServiceType, TrafficPolicyId, TrafficPolicyStatus,
};
pub use policies::is_key_set;
pub use translator::{Translation, Translator, provisions, translate};
