//! Requests on their way through the proxy.

mod authenticate;
mod authorize;
pub mod client_connections;
pub mod cors;
mod delivery;
pub mod errors;
pub mod exchange;
pub mod external_auth;
mod fault;
pub mod filters;
pub mod forward;
pub mod forwarded;
pub mod headers;
pub mod informational;
mod interim_writer;
pub mod mirror;
pub mod path;
mod resets;
pub mod response_body;
pub mod retry;
mod route_policy;
pub mod routes;
pub mod runtime;
pub mod serve;
mod unreadable;
pub mod upgrade;
mod watched;
