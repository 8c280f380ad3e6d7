//! The protocol between controller and proxy, and its translation from and to `weft-ir`.
//!
//! `proto/mesh.proto` documents the messages. Protobuf types are only used in this crate and at the
//! two ends of the stream. [`encode`] cannot fail; [`decode`] rejects whatever `weft-ir` cannot
//! represent and names the field.

#![warn(missing_docs)]

pub mod alpn;
pub mod decode;
pub mod encode;

use weft_ir::{
    Authorizations, Destination, EndpointSet, Gateway, GatewayPort, TrustedRoots, Workload,
};

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("weft.mesh.v1");
}

/// Envoy's authorization protocol, as far as it is spoken here.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod ext_authz {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// The content of a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// The configuration of the proxy's own pod.
    Workload(Workload),
    /// The trusted roots.
    Roots(TrustedRoots),
    /// What is at an address.
    Destination(Destination),
    /// The endpoints of a Service port.
    Endpoints(EndpointSet),
    /// The settings of the proxy's own gateway.
    Gateway(Gateway),
    /// A port of the proxy's own gateway.
    Port(GatewayPort),
    /// The policies that the proxy enforces.
    Authorization(Authorizations),
}

/// The audience of the service account tokens of proxies.
pub const TOKEN_AUDIENCE: &str = "weft.dev/ca";

#[cfg(test)]
mod tests;
