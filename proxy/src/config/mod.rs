//! Configuration: what the controller tells ([`stream`]), what is known ([`store`]), and how requests see it
//! ([`resolved`]).

pub mod channel;
pub mod resolved;
pub mod store;
pub mod stream;
pub mod withdrawal;
