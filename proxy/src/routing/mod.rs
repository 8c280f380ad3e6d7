//! Routes as requests and connections use them: compiled, with clusters and metrics at hand.

pub mod destination;
pub mod external_auth;
pub mod gateway_port;
pub(crate) mod resolver;
