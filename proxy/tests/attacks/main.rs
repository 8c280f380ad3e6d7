//! Clients that mean harm, against the ports of a gateway and of a pod: what the rules of HTTP/2
//! and TLS forbid, floods of frames, clients that are slow on purpose, bytes by chance, and
//! programs that others keep for it. All on loopback, bounded in time and count; WEFT_SOAK=1 makes
//! it longer.

#![recursion_limit = "256"]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod conformance;
mod floods;
mod frames;
mod hello;
mod ports;
mod properties;
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

/// Tests that measure time and memory have the process to themselves.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// The others share it.
async fn among_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

fn soaks() -> bool {
    std::env::var_os("WEFT_SOAK").is_some_and(|value| value == "1")
}
