//! Test helpers: a certificate authority, a controller that speaks the real protocol, issuers of
//! tokens, and upstreams.
//!
//! Everything listens on loopback and stops when its handle is dropped.

pub mod controller;
pub mod pki;
pub mod root;
pub mod tokens;
pub mod upstream;
