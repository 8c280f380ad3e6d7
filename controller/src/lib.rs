//! The control plane of a Weft mesh.
//!
//! Two processes ([`run`]). In [`run::serve()`], [`watch`] -> [`snapshot`] -> [`subscribe`] leads
//! from the cluster to the proxies; [`status`] leads back, on the [`leader`] alone. [`identity`]
//! keeps the root and signs; [`server::serve`] runs the gRPC port with a Mesh and a
//! CertificateAuthority service behind it, until its token is cancelled. Every request carries a
//! [`identity::PeerIdentity`] extension. [`rotation`] replaces the root. In [`run::provision()`],
//! [`provision`] keeps the objects that Gateways run on.

pub mod encoder;
pub mod http;
pub mod identity;
pub mod keys;
pub mod kubernetes;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod obstacles;
pub mod options;
pub mod provision;
pub mod replicas;
mod retries;
pub mod rotation;
pub mod run;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tests/scale.rs"]
mod scale;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod subscribe;
pub mod watch;
