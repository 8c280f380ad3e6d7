//! Gateways: which are ours, what they listen on and where that leads, and what is said of them.

mod classes;
pub(crate) mod provision;
pub(crate) mod status;
mod view;

pub(crate) use classes::{Accounts, accounts, classes, gateways};
pub use view::GatewayView;
