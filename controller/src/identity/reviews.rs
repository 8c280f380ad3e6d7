//! Limits the reviews of tokens: none for a token that was rejected a moment ago, and a rate for
//! each source address. Pure: the time is an argument.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a rejected token is rejected without a review. It is short because the API server may
/// not have known the pod yet.
const REJECTION_TIME: Duration = Duration::from_secs(10);
/// The burst of reviews for one address, and the interval at which one is added. Where a node
/// masquerades, all its pods have one address.
const BURST: u32 = 32;
const INTERVAL: Duration = Duration::from_millis(125);
/// Tokens, and addresses, that are kept.
const CAPACITY: usize = 4_096;

/// Rejected tokens, and the budget of each address.
#[derive(Debug, Default)]
pub(super) struct ReviewLimiter {
    /// Keyed with random state of this process, so that nobody can find two tokens with one digest.
    digest: RandomState,
    rejected: HashMap<u64, Instant>,
    /// When the budget of the address is complete again.
    replenished: HashMap<IpAddr, Instant>,
}

impl ReviewLimiter {
    /// Returns true if the token was rejected a moment ago.
    pub(super) fn was_rejected(&self, token: &str, now: Instant) -> bool {
        let at = self.rejected.get(&self.digest.hash_one(token));
        at.is_some_and(|at| now.saturating_duration_since(*at) < REJECTION_TIME)
    }

    pub(super) fn record_rejection(&mut self, token: &str, now: Instant) {
        let digest = self.digest.hash_one(token);
        make_room(&mut self.rejected, |at| {
            now.saturating_duration_since(*at) < REJECTION_TIME
        });
        self.rejected.insert(digest, now);
    }

    /// Takes one review from the budget of the address; returns false if there is none left.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        make_room(&mut self.replenished, |replenished| *replenished > now);
        let replenished = self.replenished.entry(source.to_canonical()).or_insert(now);
        let next = (*replenished).max(now) + INTERVAL;
        let allowed = next.saturating_duration_since(now) <= INTERVAL * BURST;
        if allowed {
            *replenished = next;
        }
        allowed
    }
}

/// Removes outdated entries once the map is full, and all entries if none is outdated.
fn make_room<K>(of: &mut HashMap<K, Instant>, is_current: impl Fn(&Instant) -> bool) {
    if of.len() < CAPACITY {
        return;
    }
    of.retain(|_, at| is_current(at));
    if of.len() >= CAPACITY {
        of.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: usize) -> IpAddr {
        IpAddr::from((number as u32).to_be_bytes())
    }

    #[test]
    fn rejected_token_is_rejected_again_for_a_moment() {
        let (mut reviews, now) = (ReviewLimiter::default(), Instant::now());
        assert!(!reviews.was_rejected("a", now));
        reviews.record_rejection("a", now);
        assert!(reviews.was_rejected("a", now + REJECTION_TIME / 2));
        assert!(!reviews.was_rejected("b", now));
        assert!(!reviews.was_rejected("a", now + REJECTION_TIME));
    }

    #[test]
    fn each_address_has_a_burst_and_a_rate() {
        let (mut reviews, now) = (ReviewLimiter::default(), Instant::now());
        let mut allowed = |source: IpAddr, at: Duration| reviews.admit(source, now + at);
        let burst = (0..100)
            .filter(|_| allowed(source(1), Duration::ZERO))
            .count();
        assert_eq!(burst, BURST as usize);
        assert!(allowed(source(2), Duration::ZERO));
        let later = (0..100)
            .filter(|_| allowed(source(1), 4 * INTERVAL))
            .count();
        assert_eq!(later, 4);
    }

    #[test]
    fn kept_tokens_and_addresses_are_bounded() {
        let (mut reviews, now) = (ReviewLimiter::default(), Instant::now());
        for turn in 0..3 * CAPACITY {
            reviews.record_rejection(&turn.to_string(), now);
            assert!(reviews.admit(source(turn), now));
        }
        assert!(reviews.rejected.len() <= CAPACITY && reviews.replenished.len() <= CAPACITY);
    }
}
