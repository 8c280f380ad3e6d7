//! The life of a request is bounded: how often it is sent, how long it outlives its client, on which connections it goes,
//! and how much of it there may be at one time.

mod clients;
mod overload;
mod panics;
mod readers;
mod retries;
mod reuse;
mod upgrades;

use std::time::{Duration, Instant};

/// Waits until `seen` holds, for five seconds at most.
async fn soon(what: &str, seen: impl Fn() -> bool) {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < Duration::from_secs(5), "not seen: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
