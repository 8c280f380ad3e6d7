//! Requests on their way through the proxy.

pub mod bodies;
pub mod errors;
pub mod exchange;
pub mod filters;
pub mod forward;
pub mod headers;
pub mod serve;
pub mod upgrade;
