//! What the proxy tells of itself: Prometheus metrics and the access log.

pub mod access;
pub mod connections;
pub mod metrics;
pub mod requests;
pub mod text;
pub mod udp;
