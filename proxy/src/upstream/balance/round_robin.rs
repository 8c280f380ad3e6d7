//! One endpoint after the other.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Whose turn it is: among the preferred endpoints, and among all. Where none of the preferred ones
/// fits, their turns are not those of the others, which would keep a pattern.
#[derive(Debug)]
pub(super) struct Turns {
    preferred: Turn,
    all: Turn,
}

impl Turns {
    pub(super) fn starting_at(place: usize) -> Self {
        Self {
            preferred: Turn::starting_at(place),
            all: Turn::starting_at(place),
        }
    }

    /// As [`Turn::pick`], of `total` endpoints.
    pub(super) fn pick(
        &self,
        count: usize,
        total: usize,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match count < total {
            true => self.preferred.pick(count, fits),
            false => self.all.pick(count, fits),
        }
    }
}

/// Whose turn it is. Begins anywhere, so that proxies that start together do not all begin with the
/// same endpoint.
#[derive(Debug)]
struct Turn(AtomicUsize);

impl Turn {
    fn starting_at(place: usize) -> Self {
        Self(AtomicUsize::new(place))
    }

    /// The place of the endpoint to use among `count`. One that does not fit loses its turn to the
    /// next, whose own turn is then over, so that those that do fit have equal shares. `None` if
    /// none fits.
    fn pick(&self, count: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut turns = (0..count).map(|_| self.0.fetch_add(1, Relaxed) % count);
        // Other requests take turns in between: these may have been of the same endpoint.
        turns
            .find(|&place| fits(place))
            .or_else(|| (0..count).find(|&place| fits(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_as_many_requests_as_the_others_but_for_one() {
        for count in [1, 3, 7, 10] {
            let turn = Turn::starting_at(5);
            let mut taken = vec![0; count];
            for _ in 0..1_001 {
                taken[turn.pick(count, |_| true).unwrap()] += 1;
            }
            let (least, most) = (taken.iter().min(), taken.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{taken:?}");
        }
    }

    #[test]
    fn endpoints_have_equal_shares_while_no_preferred_one_fits() {
        let turns = Turns::starting_at(0);
        let mut taken = [0; 5];
        for _ in 0..300 {
            assert_eq!(turns.pick(2, 5, |_| false), None);
            taken[turns.pick(5, 5, |place| place >= 2).unwrap()] += 1;
        }
        assert_eq!(taken, [0, 0, 100, 100, 100]);
    }

    #[test]
    fn turns_of_an_endpoint_that_does_not_fit_are_shared_by_all() {
        let turn = Turn::starting_at(0);
        let mut taken = [0; 5];
        for _ in 0..1_001 {
            taken[turn.pick(5, |place| place != 2).unwrap()] += 1;
        }
        assert_eq!(taken[2], 0);
        taken[2] = taken[0];
        let (least, most) = (taken.iter().min(), taken.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{taken:?}");
        assert_eq!(turn.pick(5, |_| false), None);
        assert_eq!(turn.pick(0, |_| true), None);
    }
}
