//! Of two random endpoints the cheaper one.

use super::Load;

/// The place of the endpoint to use among `count`, of which `load` gives the load; `None` for a
/// place is one to leave out. `None` when all are left out.
pub(super) fn pick<'a>(
    count: usize,
    random: &mut fastrand::Rng,
    load: impl Fn(usize) -> Option<&'a Load>,
    cost: impl Fn(&Load) -> f64,
) -> Option<usize> {
    match count {
        0 => return None,
        1 => return load(0).map(|_| 0),
        _ => {}
    }
    let first = random.usize(..count);
    let second = (first + 1 + random.usize(..count - 1)) % count;
    match (load(first), load(second)) {
        (Some(a), Some(b)) if cost(b) < cost(a) => Some(second),
        (Some(_), _) => Some(first),
        (None, Some(_)) => Some(second),
        // Rare: only after failures. Look at all, from a random place on.
        (None, None) => (0..count)
            .map(|step| (first + step) % count)
            .find(|&place| load(place).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    fn second(of: u64) -> Timestamp {
        Timestamp::START + Duration::from_secs(of)
    }

    fn wait(load: &Load) -> f64 {
        load.expected_wait(second(1))
    }

    #[test]
    fn untried_endpoint_gets_one_request_at_a_time() {
        let (known, unknown) = (Load::default(), Load::default());
        known.observe(Duration::from_micros(50), second(1));
        let mut random = fastrand::Rng::with_seed(7);
        let mut draw = || pick(2, &mut random, |at| Some([&known, &unknown][at]), wait);
        assert!((0..20).all(|_| draw() == Some(1)));
        unknown.begin();
        assert!((0..20).all(|_| draw() == Some(0)));
    }

    #[test]
    fn slow_and_busy_endpoints_are_picked_less() {
        let loads: Vec<Load> = (0..3).map(|_| Load::default()).collect();
        loads[0].observe(Duration::from_millis(100), second(1));
        loads[1].observe(Duration::from_millis(1), second(1));
        loads[2].observe(Duration::from_millis(1), second(1));
        (0..5).for_each(|_| loads[2].begin());
        let mut random = fastrand::Rng::with_seed(7);
        let mut taken = [0; 3];
        for _ in 0..3_000 {
            taken[pick(3, &mut random, |place| Some(&loads[place]), wait).unwrap()] += 1;
        }
        assert_eq!(taken[0], 0);
        assert!(taken[1] > 1_800, "{taken:?}");
        assert!(taken[2] > 0);
    }

    #[test]
    fn excluded_endpoints_are_never_picked() {
        let loads: Vec<Load> = (0..4).map(|_| Load::default()).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let only = |place| (place == 3).then(|| &loads[place]);
            assert_eq!(pick(4, &mut random, only, wait), Some(3));
        }
        assert_eq!(pick(4, &mut random, |_| None, wait), None);
        assert_eq!(pick(0, &mut random, |_| None, wait), None);
    }
}
