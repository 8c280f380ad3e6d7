//! The names by which other parties know this controller.

/// The controller in statuses for Services, and in the XMesh that it serves.
pub const CONTROLLER_NAME: &str = "weft.dev/mesh-controller";
/// The controller in GatewayClasses, and in statuses for Gateways.
pub const GATEWAY_CONTROLLER_NAME: &str = "weft.dev/gateway-controller";
