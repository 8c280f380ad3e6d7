//! The control side: the certificate ([`renewal`]), the stream of configuration ([`subscribe`]),
//! and what is known ([`store`]).

pub mod channel;
pub mod csr;
pub mod renewal;
pub mod store;
pub mod subscribe;
pub mod withdrawal;
