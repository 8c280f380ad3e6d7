//! Malicious clients against the ports of a gateway and a pod: violations of HTTP/2 and TLS, frame
//! floods, deliberately slow clients, random bytes, and third-party attack tools. All on loopback,
//! bounded in time and count; WEFT_SOAK=1 makes the runs longer.

#![recursion_limit = "256"]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod conformance;
mod floods;
mod frames;
mod hello;
mod ports;
mod slow;
mod slowhttptest;
#[path = "../support/mod.rs"]
mod support;
mod testssl;
mod tls;
mod tools;
mod witness;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::const_new(());

/// For tests that measure time and memory: no other test runs meanwhile.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// For tests that may run concurrently.
async fn among_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

fn soaks() -> bool {
    std::env::var_os("WEFT_SOAK").is_some_and(|value| value == "1")
}
