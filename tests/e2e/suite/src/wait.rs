//! Waiting for what a cluster brings about in its own time.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

/// How long anything in the cluster may take.
pub const WAIT: Duration = Duration::from_secs(40);

/// Asks until the answer is Ok, at most for `WAIT`; the last error tells what was missing.
pub async fn eventually<T>(
    what: &str,
    ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    eventually_within(WAIT, what, ask).await
}

/// Like `eventually`, for another time.
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
