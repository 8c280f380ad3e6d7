//! A draw by weight, for the backends of a rule.

/// The place of a weight drawn at random; `None` when all are 0.
pub fn weighted(
    total: u64,
    random: &mut fastrand::Rng,
    weights: impl Iterator<Item = u32>,
) -> Option<usize> {
    if total == 0 {
        return None;
    }
    let mut left = random.u64(..total);
    for (place, weight) in weights.enumerate() {
        match left.checked_sub(u64::from(weight)) {
            None => return Some(place),
            Some(rest) => left = rest,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_pick_follows_weights() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut taken = [0; 4];
        for _ in 0..10_000 {
            taken[weighted(100, &mut random, [90, 0, 9, 1].into_iter()).unwrap()] += 1;
        }
        assert!((8_850..9_150).contains(&taken[0]), "{taken:?}");
        assert_eq!(taken[1], 0);
        assert!((800..1_000).contains(&taken[2]), "{taken:?}");
        assert_eq!(weighted(0, &mut random, [0, 0].into_iter()), None);
    }
}
