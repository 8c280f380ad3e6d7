//! How every program of Weft takes connections: one accept loop that never waits for a client, and bounds on connections by
//! which the oldest give way.
//!
//! A connection has a place in a [`Pool`] for as long as nothing is known of it, and moves to another one once it has said
//! what it is: a request's head, a TLS handshake with a certificate, a stream. Beyond a pool's bounds the oldest connection is
//! closed, first of the source that opens the most, so that a flood costs the one who makes it. Sources that must get
//! through (the node's kubelet, the pod itself) have places of their own.

mod activity;
mod listen;
mod metrics;
pub mod pages;
mod places;
mod pool;
mod protected;
mod throttle;

pub use activity::{Activity, Requests};
pub use listen::{accept, bind};
pub use metrics::Metrics;
pub use places::{Bounds, Reason};
pub use pool::{Place, Pool, Port};
pub use protected::Protected;
pub use throttle::Throttle;
