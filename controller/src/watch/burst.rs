//! Bursts of changes: what follows a change waits for a moment without one.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A burst of changes ends after this long without a change.
const QUIET: Duration = Duration::from_millis(5);
/// The maximum duration of a burst.
const MAX_BURST: Duration = Duration::from_millis(100);

/// Resolves at the end of the next burst of changes.
pub(crate) async fn burst(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        return std::future::pending().await;
    }
    let end = Instant::now() + MAX_BURST;
    loop {
        let quiet = end.min(Instant::now() + QUIET);
        match timeout_at(quiet, changes.changed()).await {
            Ok(Ok(())) if Instant::now() < end => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn burst_ends_after_a_few_quiet_milliseconds() {
        let (ring, mut changes) = watch::channel(());
        let begin = Instant::now();
        ring.send_replace(());
        burst(&mut changes).await;
        assert_eq!(begin.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn endless_changes_end_a_burst_at_the_maximum() {
        let (ring, mut changes) = watch::channel(());
        let begin = Instant::now();
        ring.send_replace(());
        let ringing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                ring.send_replace(());
            }
        };
        tokio::select! {
            () = burst(&mut changes) => {}
            () = ringing => {}
        }
        let taken = begin.elapsed();
        assert!(taken >= MAX_BURST && taken < MAX_BURST + QUIET, "{taken:?}");
    }
}
