//! Requests on their way through the proxy.

pub mod bodies;
mod copied;
pub mod cors;
mod delivery;
pub mod errors;
pub mod exchange;
pub mod filters;
pub mod forward;
pub mod forwarded;
pub mod headers;
pub mod mirror;
mod path;
mod resets;
pub mod routes;
pub mod serve;
pub mod tries;
mod unreadable;
pub mod upgrade;
mod watched;
