//! Fuzz targets: functions of arbitrary bytes that panic if a property does not hold.
//!
//! Each module has a function `check`. It is called by a libFuzzer target of the same name
//! (`fuzz_targets`), with every seed (`tests/seeds.rs`), and with generated input
//! (`tests/properties.rs`). [CONTRIBUTING.md](../../CONTRIBUTING.md#fuzzing) says how to run them.

#![warn(missing_docs)]

pub mod certificate;
pub mod client_hello;
pub mod detect;
pub mod forwarded;
pub mod identity;
pub mod matcher;
pub mod proxy_protocol;
pub mod resource;
pub mod token;
pub mod translate;

/// A property of arbitrary bytes; panics if it does not hold.
pub type Check = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Check); 10] = [
    ("detect", detect::check),
    ("client_hello", client_hello::check),
    ("proxy_protocol", proxy_protocol::check),
    ("identity", identity::check),
    ("certificate", certificate::check),
    ("forwarded", forwarded::check),
    ("resource", resource::check),
    ("token", token::check),
    ("matcher", matcher::check),
    ("translate", translate::check),
];
