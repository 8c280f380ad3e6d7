//! What the proxy tells of itself: Prometheus metrics and the access log.

pub mod access;
pub mod authorization;
pub mod connections;
pub mod error_type;
pub mod health;
pub mod labels;
pub mod limits;
pub mod metrics;
pub mod outcome;
pub mod outliers;
pub mod requests;
pub mod series;
pub mod text;
pub mod udp;

#[cfg(test)]
mod tests;
