//! Tests of the public interface: golden files, and malformed objects.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its own data are wrong"
)]

mod budgets;
mod edits;
mod gateways;
mod golden;
mod input;
mod mutations;
mod protecting;
mod view;
