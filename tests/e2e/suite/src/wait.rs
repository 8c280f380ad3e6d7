//! Waits for conditions that a cluster reaches with a delay.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

/// The time limit for any change in the cluster.
pub const WAIT: Duration = Duration::from_secs(40);

/// Calls `ask` until it returns Ok, at most for `WAIT`; then returns its last error.
pub async fn eventually<T>(
    what: &str,
    ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    eventually_within(WAIT, what, ask).await
}

/// Like `eventually`, with another time limit.
pub async fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > limit => {
                return Err(error)
                    .with_context(|| format!("waited {} s for {what}", limit.as_secs()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}
