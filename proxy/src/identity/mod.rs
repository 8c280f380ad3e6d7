//! Who this proxy is: its key, its certificate and the roots it trusts.

pub mod credentials;
pub mod renew;
pub mod request;
pub mod trusted;
