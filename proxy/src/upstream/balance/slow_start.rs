//! Slow start: an endpoint that is new gets a growing share.
//!
//! Source: Envoy, `config.cluster.v3.Cluster.SlowStartConfig` with its defaults: linear, from 10 %.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use weft_ir::SlowStart;

use crate::clock::Timestamp;

/// The share at first.
const LEAST_SHARE: f64 = 0.1;

/// How long the endpoints of a cluster are known.
#[derive(Debug)]
pub(super) struct WarmUp {
    window: Duration,
    /// In the order of the endpoints; `None`: for longer than the window.
    known_since: Vec<Option<Timestamp>>,
    /// When all have their whole share; `None` if none is new.
    until: Option<Timestamp>,
}

impl WarmUp {
    /// `before`: the endpoints of the version before, and their ages; `None` for the first version,
    /// whose endpoints are not new.
    pub(super) fn new(
        settings: SlowStart,
        addresses: &[SocketAddr],
        before: Option<(&[SocketAddr], Option<&Self>)>,
        now: Timestamp,
    ) -> Self {
        let window = settings.window();
        let known_since: Vec<Option<Timestamp>> = match before {
            None => vec![None; addresses.len()],
            Some((known, ages)) => {
                let places: HashMap<&SocketAddr, usize> = known.iter().zip(0..).collect();
                let since = |address| match places.get(address) {
                    None => Some(now),
                    Some(place) => ages.and_then(|of| of.known_since[*place]),
                };
                addresses.iter().map(since).collect()
            }
        };
        let last = known_since.iter().flatten().max();
        Self {
            window,
            until: last.map(|last| *last + window),
            known_since,
        }
    }

    /// Returns true if an endpoint is new.
    pub(super) fn is_under_way(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Returns the share of an endpoint, up to 1.
    pub(super) fn share(&self, place: usize, now: Timestamp) -> f64 {
        match self.known_since.get(place) {
            None | Some(None) => 1.0,
            Some(Some(since)) => {
                let age = now.since(*since).div_duration_f64(self.window);
                (LEAST_SHARE + (1.0 - LEAST_SHARE) * age).min(1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(of: u64) -> Timestamp {
        Timestamp::START + Duration::from_secs(of)
    }

    fn addresses(numbers: &[u8]) -> Vec<SocketAddr> {
        let address = |n: &u8| SocketAddr::from(([10, 0, 0, *n], 80));
        numbers.iter().map(address).collect()
    }

    fn settings(seconds: u64) -> SlowStart {
        SlowStart::new(Duration::from_secs(seconds)).unwrap()
    }

    fn shares(of: &WarmUp, now: Timestamp) -> Vec<u32> {
        let percent = |place| (of.share(place, now) * 100.0).round() as u32;
        (0..of.known_since.len()).map(percent).collect()
    }

    #[test]
    fn shares_grow_from_when_an_endpoint_was_first_seen() {
        let (first, other) = (addresses(&[1, 2]), addresses(&[3, 1, 2]));
        let at_start = WarmUp::new(settings(10), &first, None, second(5));
        assert_eq!(shares(&at_start, second(5)), [100, 100]);
        assert!(!at_start.is_under_way(second(5)));
        let before = Some((&first[..], Some(&at_start)));
        let grown = WarmUp::new(settings(10), &other, before, second(20));
        assert_eq!(shares(&grown, second(20)), [10, 100, 100]);
        assert_eq!(shares(&grown, second(25)), [55, 100, 100]);
        // Another update changes no age, nor does another order; who comes back is new.
        let third = addresses(&[2, 4, 3]);
        let before = Some((&other[..], Some(&grown)));
        let again = WarmUp::new(settings(10), &third, before, second(25));
        assert_eq!(shares(&again, second(25)), [100, 10, 55]);
        assert_eq!(shares(&again, second(30)), [100, 55, 100]);
        assert!(again.is_under_way(second(34)) && !again.is_under_way(second(35)));
        let before = Some((&third[..], Some(&again)));
        let back = WarmUp::new(settings(10), &other, before, second(40));
        assert_eq!(shares(&back, second(40)), [100, 10, 100]);
    }

    #[test]
    fn endpoints_from_before_the_policy_are_old() {
        let (first, other) = (addresses(&[1]), addresses(&[1, 2]));
        let grown = WarmUp::new(settings(10), &other, Some((&first, None)), second(0));
        assert_eq!(shares(&grown, second(0)), [100, 10]);
        // A set that was empty has new endpoints.
        let filled = WarmUp::new(settings(10), &first, Some((&[], None)), second(1));
        assert_eq!(shares(&filled, second(1)), [10]);
    }
}
