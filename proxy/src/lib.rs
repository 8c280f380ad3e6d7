//! The data plane of Weft: takes a pod's connections in and out, routes them, and speaks mutual TLS with its peers.

pub mod admin;
pub mod body;
pub mod control;
pub mod drain;
pub mod http;
pub mod listen;
pub mod net;
pub mod options;
pub mod overload;
pub mod probe;
pub mod routing;
pub mod run;
pub mod telemetry;
pub mod tls;
pub mod upstream;

use std::sync::Arc;

/// What every listener and connection works with; clones are the same.
#[derive(Clone)]
pub struct Context {
    pub options: Arc<options::Options>,
    pub store: control::store::Store,
    pub tls: tls::Tls,
    pub metrics: Arc<telemetry::metrics::Metrics>,
    pub access: telemetry::access::AccessLog,
    pub upstream: Arc<upstream::EndpointRegistry>,
}
