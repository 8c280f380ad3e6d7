//! Sockets and byte streams: what stands below TLS and HTTP.

pub(crate) mod copy;
pub mod cork;
pub mod detect;
pub(crate) mod io;
pub(crate) mod linger;
pub(crate) mod ping;
pub mod proxy_protocol;
pub mod socket;
pub mod tcp;
