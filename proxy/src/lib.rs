//! The data plane of Weft: takes a pod's connections in and out, routes them, and speaks mutual TLS
//! with its peers.

pub mod admin;
pub mod authentication;
pub mod authorization;
pub mod body;
pub mod clock;
pub mod control;
mod cookies;
pub mod drain;
mod grpc;
pub mod http;
mod lease;
pub mod limits;
pub mod listen;
pub mod net;
pub mod options;
pub mod overload;
pub mod probe;
pub mod routing;
pub mod run;
mod spellings;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod wire;
