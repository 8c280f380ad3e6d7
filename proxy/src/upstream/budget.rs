//! The retry budget of a cluster: a fifth of its requests, and a few more when those are few.
//! Retries, whoever asked for them, do not make the failure of a whole cluster worse.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The window in which requests and retries are counted.
const PERIOD: Duration = Duration::from_secs(10);
/// Retries in a period that need no requests: so that a cluster with little traffic has retries
/// too, and an endpoint that dies under many requests loses none of those that may go elsewhere.
const RESERVE: u64 = 100;
/// Requests that allow one retry.
const REQUESTS_PER_RETRY: u64 = 5;

#[derive(Default)]
pub(super) struct RetryBudget {
    /// Since the start, without retries.
    requests: AtomicU64,
    period: Mutex<Period>,
}

/// Locked by retries only.
#[derive(Default)]
struct Period {
    /// Nanoseconds on the clock of [`super::EndpointRegistry::now`].
    start: u64,
    requests_at_start: u64,
    /// Requests in a period before the start.
    before: u64,
    spent: u64,
}

impl RetryBudget {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Takes one retry from the budget. Returns false if the budget is exhausted.
    pub(super) fn spend(&self, now: u64) -> bool {
        let requests = self.requests.load(Relaxed);
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_sub(period.start);
        let length = PERIOD.as_nanos() as u64;
        if elapsed >= length {
            let since = requests.saturating_sub(period.requests_at_start);
            let rate = since as f64 / elapsed as f64;
            *period = Period {
                start: now,
                requests_at_start: requests,
                before: (rate * length as f64) as u64,
                spent: 0,
            };
        }
        let since = requests.saturating_sub(period.requests_at_start);
        let most = RESERVE + since.max(period.before) / REQUESTS_PER_RETRY;
        let left = period.spent < most;
        period.spent += u64::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn spend_all(budget: &RetryBudget, now: u64) -> u64 {
        (0..10_000).take_while(|_| budget.spend(now)).count() as u64
    }

    #[test]
    fn retry_budget_is_a_fifth_of_requests_and_a_reserve() {
        let budget = RetryBudget::default();
        assert_eq!(spend_all(&budget, SECOND), RESERVE, "without requests");
        (0..1_000).for_each(|_| budget.request());
        assert_eq!(spend_all(&budget, 2 * SECOND), 200);
        assert_eq!(spend_all(&budget, 9 * SECOND), 0);
        // 1,000 requests in the last 20 s count as 500 per period.
        assert_eq!(spend_all(&budget, 20 * SECOND), RESERVE + 100);
        // Idle time does not accumulate budget.
        assert_eq!(spend_all(&budget, 3_600 * SECOND), RESERVE);
    }
}
