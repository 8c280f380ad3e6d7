//! The requests of a connection, as far as they decide how long it may stay.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Counts requests from their beginning to their end.
#[derive(Debug, Default)]
pub struct Activity(watch::Sender<Requests>);

/// How many there have been, and how many have not ended.
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

    /// Gives what is left.
    pub fn end(&self) -> Requests {
        self.0
            .send_modify(|requests| requests.open = requests.open.saturating_sub(1));
        self.now()
    }

    /// Resolves when the counts are so.
    pub async fn until(&self, so: impl FnMut(&Requests) -> bool) {
        let mut requests = self.0.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        drop(requests.wait_for(so).await);
    }

    /// Resolves once no request was open for `limit`, and none was begun.
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
    async fn a_connection_is_idle_when_its_last_request_has_ended_long_ago() {
        let activity = Activity::default();
        let begun = Instant::now();
        let requests = async {
            // A long one, and a short one within the limit of its end.
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
    async fn one_that_never_had_a_request_is_idle_from_its_beginning() {
        let begun = Instant::now();
        Activity::default().idle(LIMIT).await;
        assert_eq!(begun.elapsed(), LIMIT);
    }
}
