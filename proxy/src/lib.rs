//! The data plane of Weft: takes a pod's connections in and out, routes them, and speaks mutual TLS with its peers.

pub mod balance;
pub mod config;
pub mod options;
pub mod telemetry;
pub mod upstream;
pub mod identity;
pub mod shutdown;
pub mod tls;
