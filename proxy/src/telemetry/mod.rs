//! What the proxy tells of itself: Prometheus metrics and the access log.

pub mod access;
pub mod metrics;
pub mod requests;
