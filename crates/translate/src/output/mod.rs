//! The output of a translation apart from the mesh: statuses, and the infrastructure of Gateways.

mod gateways;
mod provision;
mod routes;

pub use gateways::{
    Address, AddressKind, AncestorStatus, AuthorizationStatus, GatewayClassStatus, GatewayStatus,
    ListenerSetStatus, ListenerStatus, PolicyStatus, Routability, RouteGroupKind, TrafficPolicyId,
    TrafficPolicyStatus,
};
pub use provision::{
    ExternalTrafficPolicy, Provision, ProvisionPort, Resources, Scaling, ServiceProvision,
    ServiceType,
};
pub use routes::{Condition, Controller, ParentStatus, RouteStatus};
