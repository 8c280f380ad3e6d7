//! Accepting connections: one accept loop that never waits for a client, and connection limits that
//! close the oldest connection.
//!
//! A connection has a place in a [`Pool`] while nothing is known about it, and moves to another
//! pool once it has identified itself: by the head of a request, a TLS handshake with a
//! certificate, a stream. Beyond the limits of a pool the oldest connection is closed, first of the
//! source with the most connections, so that a flood is at the expense of its originator. Sources
//! that must not be locked out (the kubelet of the node, the pod itself) have places of their own.

mod activity;
mod gateways;
mod listen;
mod metrics;
pub mod pages;
mod places;
mod pool;
mod protected;
mod throttle;

pub use activity::{Activity, Requests};
pub use gateways::gateways;
pub use listen::{accept, bind};
pub use metrics::Metrics;
pub use places::{Bounds, Reason};
pub use pool::{Place, Pool, Port};
pub use protected::Protected;
pub use throttle::Throttle;
