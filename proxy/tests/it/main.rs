//! The proxy's integration tests, in one binary that is linked once.
//!
//! Tests that measure the whole process, such as its memory, have binaries of their own: `attacks`,
//! `differential` and `large`.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../control_support/mod.rs"]
mod control_support;
#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod authentication;
mod authorization;
mod backend_tls;
mod balancing;
mod bytes;
mod choice;
mod composition;
mod connections;
mod control;
mod control_process;
mod control_roots;
mod control_tls;
mod dual_stack;
mod external_auth;
mod faults;
mod gateway;
mod gateway_ends;
mod gateway_tls;
mod grpc;
mod health;
mod http1;
mod informational;
mod late_hello;
mod life;
mod limits;
mod mirror_cors_retry;
mod outliers;
mod pair;
mod resend;
mod retries;
mod rotation;
mod routing;
mod silence;
mod strict;
mod tcp;
mod timeouts;
mod udp;
mod unexpected_peers;
