//! The data plane of Weft: takes a pod's connections in and out, routes them, and speaks mutual TLS with its peers.

pub mod admin;
pub mod balance;
pub mod batch;
pub mod config;
mod copy;
pub mod detect;
pub mod http;
pub mod identity;
mod linger;
pub mod listen;
pub mod options;
pub mod overload;
pub mod probe;
pub mod run;
pub mod shutdown;
mod streams;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;

use std::sync::Arc;

/// What every listener and connection works with; clones are the same.
#[derive(Clone)]
pub struct Context {
    pub options: Arc<options::Options>,
    pub store: config::store::Store,
    pub tls: tls::Tls,
    pub metrics: Arc<telemetry::metrics::Metrics>,
    pub access: telemetry::access::AccessLog,
    pub upstream: Arc<upstream::EndpointRegistry>,
}
