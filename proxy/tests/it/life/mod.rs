//! Limits on the life of a request: how often it is sent, how long it outlives its client, which
//! connections it uses, and how much of it is held at a time.

mod clients;
mod overload;
mod panics;
mod readers;
mod retries;
mod reuse;
mod upgrades;

use std::time::{Duration, Instant};

/// Waits until `seen` returns true, for at most five seconds.
async fn soon(what: &str, seen: impl Fn() -> bool) {
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < Duration::from_secs(5), "not seen: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
