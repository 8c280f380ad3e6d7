//! The protocol between controller and proxy, and its translation from and to `weft-ir`.
//!
//! `proto/mesh.proto` says what the messages mean. Protobuf types stay in this crate and at the two ends of the stream.
//! [`encode`] cannot fail; [`decode`] refuses whatever `weft-ir` cannot hold, and says which field it was.

pub mod alpn;
pub mod decode;
pub mod encode;

use weft_ir::{Destination, EndpointSet, Gateway, GatewayPort, TrustedRoots, Workload};

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("weft.mesh.v1");
}

/// What a resource on the stream holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Workload(Workload),
    Roots(TrustedRoots),
    Destination(Destination),
    Endpoints(EndpointSet),
    Gateway(Gateway),
    Port(GatewayPort),
}

/// The audience that a proxy's service-account token must be made for.
pub const TOKEN_AUDIENCE: &str = "weft.dev/ca";

#[cfg(test)]
mod tests;
