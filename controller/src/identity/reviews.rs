//! How often Kubernetes is asked about tokens: not again about one that it has just refused, and only so often for one
//! address. Pure; the time is given.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A refused token is refused without a review for this long: it may be that the API server did not know the pod yet.
const REFUSED: Duration = Duration::from_secs(10);
/// Reviews that one address may cause at once, and in a second: all pods of a node have one where it masquerades.
const BURST: u32 = 32;
const EACH: Duration = Duration::from_millis(125);
/// Tokens, and addresses, that are remembered.
const MOST: usize = 4_096;

/// What is remembered of tokens and of those who send them.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    /// By a digest with a key of this process: nobody else can find two tokens of the same.
    digest: RandomState,
    refused: HashMap<u64, Instant>,
    /// When the address will have all its reviews again.
    full: HashMap<IpAddr, Instant>,
}

impl Reviews {
    /// Whether the token was refused a moment ago.
    pub(super) fn was_refused(&self, token: &str, now: Instant) -> bool {
        let at = self.refused.get(&self.digest.hash_one(token));
        at.is_some_and(|at| now.saturating_duration_since(*at) < REFUSED)
    }

    pub(super) fn refuse(&mut self, token: &str, now: Instant) {
        let digest = self.digest.hash_one(token);
        make_room(&mut self.refused, |at| {
            now.saturating_duration_since(*at) < REFUSED
        });
        self.refused.insert(digest, now);
    }

    /// Whether one more review may be made for the address; counts it.
    pub(super) fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        make_room(&mut self.full, |full| *full > now);
        let full = self.full.entry(source.to_canonical()).or_insert(now);
        let next = (*full).max(now) + EACH;
        let allowed = next.saturating_duration_since(now) <= EACH * BURST;
        if allowed {
            *full = next;
        }
        allowed
    }
}

/// Forgets what no longer matters when there is much of it, and everything if all of it does.
fn make_room<K>(of: &mut HashMap<K, Instant>, matters: impl Fn(&Instant) -> bool) {
    if of.len() < MOST {
        return;
    }
    of.retain(|_, at| matters(at));
    if of.len() >= MOST {
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
    fn a_refused_token_is_remembered_for_a_moment() {
        let (mut reviews, now) = (Reviews::default(), Instant::now());
        assert!(!reviews.was_refused("a", now));
        reviews.refuse("a", now);
        assert!(reviews.was_refused("a", now + REFUSED / 2));
        assert!(!reviews.was_refused("b", now));
        assert!(!reviews.was_refused("a", now + REFUSED));
    }

    #[test]
    fn an_address_has_a_burst_and_then_a_rate_of_its_own() {
        let (mut reviews, now) = (Reviews::default(), Instant::now());
        let mut allowed = |source: IpAddr, at: Duration| reviews.allow(source, now + at);
        let burst = (0..100)
            .filter(|_| allowed(source(1), Duration::ZERO))
            .count();
        assert_eq!(burst, BURST as usize);
        assert!(allowed(source(2), Duration::ZERO));
        let later = (0..100).filter(|_| allowed(source(1), 4 * EACH)).count();
        assert_eq!(later, 4);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut reviews, now) = (Reviews::default(), Instant::now());
        for turn in 0..3 * MOST {
            reviews.refuse(&turn.to_string(), now);
            assert!(reviews.allow(source(turn), now));
        }
        assert!(reviews.refused.len() <= MOST && reviews.full.len() <= MOST);
    }
}
