//! The protocol between controller and proxy, and its translation from and to `weft-ir`.
//!
//! `proto/mesh.proto` says what the messages mean. Protobuf types stay in this crate and the two ends of the stream.

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("weft.mesh.v1");
}
