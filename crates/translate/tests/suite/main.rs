//! Tests of the public interface: golden files, and malformed objects.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its own data are wrong"
)]

/// The folder of golden files and certificates.
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");

mod authorization;
mod budgets;
mod consistency;
mod faults;
mod gateways;
mod golden;
mod incremental;
mod input;
mod mutations;
mod protective_fields;
mod traffic;
mod view;
