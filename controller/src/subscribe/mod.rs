//! The `Mesh` service: one stream for each proxy, on which it gets the resources that it watches
//! and their changes.
//!
//! [`session`] decides what is sent, [`service`] moves messages, [`registry`] records what each
//! proxy holds.

pub mod input;
pub mod registry;
mod service;
pub mod session;
mod withdraw;

pub use registry::{Held, Registry, RootProgress};
pub use service::{Limits, Roots, Subscriptions};

#[cfg(test)]
mod tests;
