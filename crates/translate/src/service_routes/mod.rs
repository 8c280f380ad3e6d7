//! Routes whose parents are Services, and what clients see at the addresses of Services.

pub(crate) mod attach;
pub(crate) mod status;
pub(crate) mod views;
