//! The retry budget of a cluster: a share of its requests, and a few more when those are few.
//! Retries, whoever asked for them, do not make the failure of a whole cluster worse.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use weft_ir::RetryBudget;

use crate::clock::Timestamp;

#[derive(Default)]
pub(super) struct RetryCounter {
    /// Since the start, without retries.
    requests: AtomicU64,
    period: Mutex<Period>,
}

/// Locked by retries only.
#[derive(Default)]
struct Period {
    start: Timestamp,
    requests_at_start: u64,
    /// Requests in a period before the start.
    before: u64,
    spent: u64,
}

impl RetryCounter {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Takes one retry from the budget. Returns false if the budget is exhausted. The part that
    /// needs no requests is there so that a cluster with little traffic has retries too, and an
    /// endpoint that dies under many requests loses none of those that may go elsewhere.
    pub(super) fn spend(&self, budget: RetryBudget, now: Timestamp) -> bool {
        let requests = self.requests.load(Relaxed);
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.since(period.start);
        let length = budget.interval.get();
        if elapsed >= length {
            let since = requests.saturating_sub(period.requests_at_start);
            let share = length.div_duration_f64(elapsed);
            *period = Period {
                start: now,
                requests_at_start: requests,
                before: (since as f64 * share) as u64,
                spent: 0,
            };
        }
        let since = requests.saturating_sub(period.requests_at_start);
        let reserve = u64::from(budget.min_retries);
        let share = since.max(period.before) * u64::from(budget.percent.get()) / 100;
        let most = reserve + share;
        let left = period.spent < most;
        period.spent += u64::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn second(of: u64) -> Timestamp {
        Timestamp::START + Duration::from_secs(of)
    }

    fn spend_all(counter: &RetryCounter, budget: RetryBudget, now: Timestamp) -> u64 {
        (0..10_000)
            .take_while(|_| counter.spend(budget, now))
            .count() as u64
    }

    #[test]
    fn retry_budget_is_a_fifth_of_requests_and_a_reserve() {
        let counter = RetryCounter::default();
        let left = |now| spend_all(&counter, RetryBudget::default(), now);
        assert_eq!(left(second(1)), 100, "without requests");
        (0..1_000).for_each(|_| counter.request());
        assert_eq!(left(second(2)), 200);
        assert_eq!(left(second(9)), 0);
        // 1,000 requests in the last 20 s count as 500 per period.
        assert_eq!(left(second(20)), 200);
        // Idle time does not accumulate budget.
        assert_eq!(left(second(3_600)), 100);
    }

    #[test]
    fn retry_budget_follows_its_policy() {
        for (percent, min_per_second, expected) in
            [(0, 0, 0), (0, 3, 30), (10, 0, 100), (100, 1, 1_010)]
        {
            let counter = RetryCounter::default();
            (0..1_000).for_each(|_| counter.request());
            let percent = weft_ir::Percent::new(percent).unwrap();
            let budget = RetryBudget::per_second(percent, min_per_second);
            assert_eq!(spend_all(&counter, budget, second(1)), expected);
            // A policy that allows less counts what was spent before it.
            let less = RetryBudget {
                min_retries: 0,
                ..budget
            };
            assert_eq!(spend_all(&counter, less, second(1)), 0);
        }
    }
    #[test]
    fn requests_and_retries_count_for_the_interval_of_the_policy() {
        let minute = weft_ir::BudgetInterval::new(Duration::from_secs(60));
        let budget = RetryBudget {
            interval: minute.unwrap(),
            min_retries: 5,
            ..RetryBudget::default()
        };
        let counter = RetryCounter::default();
        (0..100).for_each(|_| counter.request());
        assert_eq!(spend_all(&counter, budget, second(1)), 25);
        assert_eq!(spend_all(&counter, budget, second(59)), 0);
        assert_eq!(spend_all(&counter, budget, second(60)), 25);
        assert_eq!(spend_all(&counter, budget, second(3_600)), 5);
    }
}
