//! The `Mesh` service: one stream for each proxy, which is told what it asks for and every change of it.
//!
//! [`session`] decides what is sent, [`service`] moves messages, [`registry`] knows who holds what.

mod encoder;
pub mod input;
pub mod registry;
mod service;
pub mod session;
mod withdraw;

pub use encoder::{EncodedDestination, EncodedGateway, Encoder, Source};
pub use registry::{Held, Registry, Trusting};
pub use service::{Limits, Roots, Subscriptions};

#[cfg(test)]
mod tests;
