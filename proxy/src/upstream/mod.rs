//! Where requests and connections go: clusters of endpoints, and the pools of connections to each.
//!
//! A [`Cluster`] is the endpoints of one Service port (or one pod). Its endpoints change under
//! traffic; an endpoint that stays keeps its connections and what is known of its latency. Which
//! cluster takes a request is decided elsewhere.

mod attempt;
pub mod balance;
mod broken;
mod budget;
mod cluster;
mod connect;
mod endpoint;
mod error;
mod health;
mod http1;
pub mod http2;
mod interim;
mod keep_alive;
mod lease;
mod liveness;
mod members;
mod negotiated_http;
mod observer;
mod outliers;
mod registry;
mod send;
mod sessions;
pub mod target;

pub use cluster::Cluster;
pub use connect::{ConnectError, Transport};
pub use endpoint::Endpoint;
pub use error::SendError;
pub use lease::Lease;
pub use members::Members;
pub use observer::{Informational, SendObserver, Unobserved};
pub use registry::EndpointRegistry;
pub use send::{UpstreamRequest, UpstreamResponse};
