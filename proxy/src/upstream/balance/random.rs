//! Any endpoint.

/// The place of the endpoint to use among `count`, of those that fit. `None` if none does.
pub(super) fn pick(
    count: usize,
    random: &mut fastrand::Rng,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    // Where most fit, the first draws find one; otherwise a draw among those that do.
    let drawn = (0..DRAWS)
        .map(|_| random.usize(..count))
        .find(|&at| fits(at));
    drawn.or_else(|| {
        let fitting = (0..count).filter(|&at| fits(at)).count();
        let nth = (fitting > 0).then(|| random.usize(..fitting))?;
        (0..count).filter(|&at| fits(at)).nth(nth)
    })
}

/// Draws before all endpoints are looked at.
const DRAWS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_fit_have_equal_shares() {
        let mut random = fastrand::Rng::with_seed(7);
        for fitting in [1, 2, 5, 10] {
            let mut taken = [0; 10];
            for _ in 0..10_000 {
                taken[pick(10, &mut random, |at| at < fitting).unwrap()] += 1;
            }
            let share = 10_000 / fitting;
            let is_share = |taken: &i32| taken.abs_diff(share as i32) <= 200;
            assert!(taken[..fitting].iter().all(is_share), "{taken:?}");
            assert!(
                taken[fitting..].iter().all(|taken| *taken == 0),
                "{taken:?}"
            );
        }
        assert_eq!(pick(10, &mut random, |_| false), None);
        assert_eq!(pick(0, &mut random, |_| true), None);
    }
}
