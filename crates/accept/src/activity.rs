//! The requests of a connection, which decide how long it may stay open.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Counts requests from start to end.
#[derive(Debug, Default)]
pub struct Activity(watch::Sender<Requests>);

/// The number of requests so far, and of those in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub begun: u64,
    pub open: u64,
}

impl Activity {
    pub fn now(&self) -> Requests {
        *self.0.borrow()
    }

    pub fn begin(&self) {
        self.0.send_modify(|requests| {
            requests.begun += 1;
            requests.open += 1;
        });
    }

    /// Returns the remaining counts.
    pub fn end(&self) -> Requests {
        self.0
            .send_modify(|requests| requests.open = requests.open.saturating_sub(1));
        self.now()
    }

    /// Completes when the counts meet the condition.
    pub async fn until(&self, so: impl FnMut(&Requests) -> bool) {
        let mut requests = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(requests.wait_for(so).await);
    }

    /// Completes once no request was in progress, and none was started, for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            self.until(|requests| requests.open == 0).await;
            let begun = self.now().begun;
            let next = self.until(|requests| requests.begun > begun);
            if timeout(limit, next).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_some_time_after_its_last_request() {
        let activity = Activity::default();
        let begun = Instant::now();
        let requests = async {
            // A long request, and a short one that starts within the limit after it.
            activity.begin();
            sleep(3 * LIMIT).await;
            assert_eq!(activity.end(), Requests { begun: 1, open: 0 });
            sleep(LIMIT / 2).await;
            activity.begin();
            activity.end();
        };
        tokio::join!(activity.idle(LIMIT), requests);
        assert_eq!(begun.elapsed(), LIMIT * 9 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle_from_the_start() {
        let begun = Instant::now();
        Activity::default().idle(LIMIT).await;
        assert_eq!(begun.elapsed(), LIMIT);
    }
}
