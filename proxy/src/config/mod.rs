//! Configuration: what the controller tells ([`stream`]), what is known ([`store`]), and how requests see it
//! ([`resolved`], at a gateway [`ports`]).

pub mod channel;
pub mod ports;
pub mod resolved;
pub mod store;
pub mod stream;
pub mod withdrawal;
