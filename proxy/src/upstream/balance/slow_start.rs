//! Slow start: an endpoint that is new gets a growing share.
//!
//! Source: Envoy, `config.cluster.v3.Cluster.SlowStartConfig` with its defaults: linear, from 10 %.

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_ir::SlowStart;

/// The share at first.
const LEAST_SHARE: f64 = 0.1;

/// How long the endpoints of a cluster are known.
#[derive(Debug)]
pub(super) struct WarmUp {
    /// In nanoseconds.
    window: u64,
    /// Since when, in nanoseconds, in the order of the endpoints; 0: for longer than the window.
    known_since: Vec<u64>,
    /// When all have their whole share.
    until: u64,
}

impl WarmUp {
    /// `before`: the endpoints of the version before, and their ages; `None` for the first version,
    /// whose endpoints are not new.
    pub(super) fn new(
        settings: SlowStart,
        addresses: &[SocketAddr],
        before: Option<(&[SocketAddr], Option<&Self>)>,
        now: u64,
    ) -> Self {
        let window = settings.window().as_nanos() as u64;
        let known_since: Vec<u64> = match before {
            None => vec![0; addresses.len()],
            Some((known, ages)) => {
                let places: HashMap<&SocketAddr, usize> = known.iter().zip(0..).collect();
                let since = |address| match places.get(address) {
                    None => now.max(1),
                    Some(place) => ages.map_or(0, |of| of.known_since[*place]),
                };
                addresses.iter().map(since).collect()
            }
        };
        let last = known_since.iter().max().copied().unwrap_or_default();
        Self {
            window,
            until: if last > 0 {
                last.saturating_add(window)
            } else {
                0
            },
            known_since,
        }
    }

    /// Returns true if an endpoint is new.
    pub(super) fn is_under_way(&self, now: u64) -> bool {
        now < self.until
    }

    /// Returns the share of an endpoint, up to 1.
    pub(super) fn share(&self, place: usize, now: u64) -> f64 {
        match self.known_since.get(place) {
            None | Some(0) => 1.0,
            Some(&since) => {
                let age = now.saturating_sub(since) as f64 / self.window as f64;
                (LEAST_SHARE + (1.0 - LEAST_SHARE) * age).min(1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn addresses(numbers: &[u8]) -> Vec<SocketAddr> {
        let address = |n: &u8| SocketAddr::from(([10, 0, 0, *n], 80));
        numbers.iter().map(address).collect()
    }

    fn settings(seconds: u64) -> SlowStart {
        SlowStart::new(Duration::from_secs(seconds)).unwrap()
    }

    fn shares(of: &WarmUp, now: u64) -> Vec<u32> {
        let percent = |place| (of.share(place, now) * 100.0).round() as u32;
        (0..of.known_since.len()).map(percent).collect()
    }

    #[test]
    fn shares_grow_from_when_an_endpoint_was_first_seen() {
        let (first, second) = (addresses(&[1, 2]), addresses(&[3, 1, 2]));
        let at_start = WarmUp::new(settings(10), &first, None, 5 * SECOND);
        assert_eq!(shares(&at_start, 5 * SECOND), [100, 100]);
        assert!(!at_start.is_under_way(5 * SECOND));
        let before = Some((&first[..], Some(&at_start)));
        let grown = WarmUp::new(settings(10), &second, before, 20 * SECOND);
        assert_eq!(shares(&grown, 20 * SECOND), [10, 100, 100]);
        assert_eq!(shares(&grown, 25 * SECOND), [55, 100, 100]);
        // Another update changes no age, nor does another order; who comes back is new.
        let third = addresses(&[2, 4, 3]);
        let before = Some((&second[..], Some(&grown)));
        let again = WarmUp::new(settings(10), &third, before, 25 * SECOND);
        assert_eq!(shares(&again, 25 * SECOND), [100, 10, 55]);
        assert_eq!(shares(&again, 30 * SECOND), [100, 55, 100]);
        assert!(again.is_under_way(34 * SECOND) && !again.is_under_way(35 * SECOND));
        let before = Some((&third[..], Some(&again)));
        let back = WarmUp::new(settings(10), &second, before, 40 * SECOND);
        assert_eq!(shares(&back, 40 * SECOND), [100, 10, 100]);
    }

    #[test]
    fn endpoints_from_before_the_policy_are_old() {
        let (first, second) = (addresses(&[1]), addresses(&[1, 2]));
        let grown = WarmUp::new(settings(10), &second, Some((&first, None)), 0);
        assert_eq!(shares(&grown, 1), [100, 10]);
        // A set that was empty has new endpoints.
        let filled = WarmUp::new(settings(10), &first, Some((&[], None)), SECOND);
        assert_eq!(shares(&filled, SECOND), [10]);
    }
}
