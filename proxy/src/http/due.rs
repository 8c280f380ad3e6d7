//! Waiting within the timeout of a request as a whole.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::errors::Failure;
use super::exchange::Exchange;

/// When the request as a whole has to be done, and its timeout.
pub(super) struct Due(Option<(Instant, Duration)>);

impl Due {
    pub(super) fn of(exchange: &Exchange, limit: Option<Duration>) -> Self {
        Self::since(Instant::from_std(exchange.started()), limit)
    }

    fn since(started: Instant, limit: Option<Duration>) -> Self {
        Self(limit.map(|limit| (started + limit, limit)))
    }

    /// Waits, as long as the request may take.
    pub(super) async fn within<T>(&self, of: impl Future<Output = T>) -> Result<T, Failure> {
        match self.0 {
            None => Ok(of.await),
            Some((at, limit)) => timeout_at(at, of)
                .await
                .map_err(|_| Failure::RequestTimeout(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_ends_with_the_timeout_of_the_request() {
        let seconds = Duration::from_secs;
        let begun = Instant::now();
        let due = |limit| Due::since(begun, Some(seconds(limit)));
        let unlimited = Due::since(begun, None);
        assert!(unlimited.within(sleep(seconds(10))).await.is_ok());
        assert_eq!(begun.elapsed(), seconds(10));
        assert!(due(30).within(sleep(seconds(10))).await.is_ok());
        assert_eq!(begun.elapsed(), seconds(20));
        let cut = due(30).within(sleep(seconds(60))).await;
        assert!(matches!(cut, Err(Failure::RequestTimeout(limit)) if limit == seconds(30)));
        assert_eq!(begun.elapsed(), seconds(30));
        // It was over before.
        assert!(due(25).within(sleep(seconds(60))).await.is_err());
        assert_eq!(begun.elapsed(), seconds(30));
    }
}
