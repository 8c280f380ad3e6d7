//! Which endpoint takes a request: the cheaper of two drawn at random, where the cost is the
//! peak-sensitive moving average of its latency times the requests it is busy with.
//!
//! Knows neither connections nor health; a caller that meets a dead endpoint asks again and leaves
//! it out.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Time after which an old latency counts for about a third.
const DECAY: Duration = Duration::from_secs(10);
/// Taken for the latency of an endpoint that is busy with its first requests, in nanoseconds.
const UNKNOWN_LATENCY: f64 = 1_000_000.0;

/// What is known of one endpoint's latency. All updates are relaxed: a lost one costs a little
/// accuracy.
#[derive(Debug, Default)]
pub struct Load {
    /// Bits of an `f64` in nanoseconds; 0 is unknown.
    average: AtomicU64,
    /// When `average` was updated, in nanoseconds on the caller's clock.
    updated: AtomicU64,
    active: AtomicU32,
}

impl Load {
    pub fn begin(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    /// Ends what [`Load::begin`] began, without a latency to learn from.
    pub fn end(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// Learns a latency: a higher one counts at once, a lower one by and by. `now` in nanoseconds.
    pub fn observe(&self, latency: Duration, now: u64) {
        let latency = (latency.as_nanos() as f64).max(1.0);
        let old = f64::from_bits(self.average.load(Relaxed));
        let average = if latency >= old {
            latency
        } else {
            latency + (old - latency) * self.remaining(now)
        };
        self.average.store(average.to_bits(), Relaxed);
        self.updated.store(now, Relaxed);
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Expected wait, in nanoseconds.
    fn cost(&self, now: u64) -> f64 {
        let average = f64::from_bits(self.average.load(Relaxed));
        let active = self.active();
        let average = match (average == 0.0, active) {
            // Tried before all others, but by one request: how fast it is has to be learned.
            (true, 0) => return 0.0,
            (true, _) => UNKNOWN_LATENCY,
            (false, _) => average * self.remaining(now),
        };
        average.max(1.0) * f64::from(active + 1)
    }

    fn remaining(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.updated.load(Relaxed));
        (-(age as f64) / DECAY.as_nanos() as f64).exp()
    }
}

/// The place of the endpoint to use among `count`, of which `load` gives the load; `None` for a
/// place is one to leave out. `None` when all are left out.
pub fn pick<'a>(
    count: usize,
    now: u64,
    random: &mut fastrand::Rng,
    load: impl Fn(usize) -> Option<&'a Load>,
) -> Option<usize> {
    match count {
        0 => return None,
        1 => return load(0).map(|_| 0),
        _ => {}
    }
    let first = random.usize(..count);
    let second = (first + 1 + random.usize(..count - 1)) % count;
    match (load(first), load(second)) {
        (Some(a), Some(b)) if b.cost(now) < a.cost(now) => Some(second),
        (Some(_), _) => Some(first),
        (None, Some(_)) => Some(second),
        // Rare: only after failures. Look at all, from a random place on.
        (None, None) => (0..count)
            .map(|step| (first + step) % count)
            .find(|&place| load(place).is_some()),
    }
}

/// Requests under way at which it is asked whether an endpoint has too much to do.
const CROWDED_REQUESTS: u32 = 32;
/// How many times the cost of another one that is.
const OVERLOAD_FACTOR: f64 = 4.0;

/// Whether an endpoint that is preferred is busy with so many requests that another may be better.
pub fn is_crowded(load: &Load) -> bool {
    load.active() >= CROWDED_REQUESTS
}

/// Whether the one that is preferred has too much to do beside another.
pub fn should_spill(preferred: &Load, other: &Load, now: u64) -> bool {
    is_crowded(preferred) && preferred.cost(now) > OVERLOAD_FACTOR * other.cost(now)
}

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

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn untried_endpoint_gets_one_request_at_a_time() {
        let (known, unknown) = (Load::default(), Load::default());
        known.observe(Duration::from_micros(50), SECOND);
        let mut random = fastrand::Rng::with_seed(7);
        let mut draw = || pick(2, SECOND, &mut random, |at| Some([&known, &unknown][at]));
        assert!((0..20).all(|_| draw() == Some(1)));
        unknown.begin();
        assert!((0..20).all(|_| draw() == Some(0)));
    }

    #[test]
    fn preferred_endpoint_spills_only_when_crowded_and_costlier() {
        let (near, far) = (Load::default(), Load::default());
        near.observe(Duration::from_millis(100), SECOND);
        far.observe(Duration::from_millis(1), SECOND);
        (1..CROWDED_REQUESTS).for_each(|_| near.begin());
        assert!(!should_spill(&near, &far, SECOND), "slow but not crowded");
        near.begin();
        assert!(should_spill(&near, &far, SECOND));
        (0..100).for_each(|_| (0..100).for_each(|_| far.begin()));
        assert!(
            !should_spill(&near, &far, SECOND),
            "the other endpoint is no better"
        );
    }

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

    #[test]
    fn slow_and_busy_endpoints_are_picked_less() {
        let loads: Vec<Load> = (0..3).map(|_| Load::default()).collect();
        loads[0].observe(Duration::from_millis(100), SECOND);
        loads[1].observe(Duration::from_millis(1), SECOND);
        loads[2].observe(Duration::from_millis(1), SECOND);
        (0..5).for_each(|_| loads[2].begin());
        let mut random = fastrand::Rng::with_seed(7);
        let mut taken = [0; 3];
        for _ in 0..3_000 {
            taken[pick(3, SECOND, &mut random, |place| Some(&loads[place])).unwrap()] += 1;
        }
        assert_eq!(taken[0], 0);
        assert!(taken[1] > 1_800, "{taken:?}");
        assert!(taken[2] > 0);
    }

    #[test]
    fn latency_peak_raises_cost_at_once_and_decays() {
        let load = Load::default();
        load.observe(Duration::from_millis(1), SECOND);
        load.observe(Duration::from_millis(500), SECOND);
        let peak = load.cost(SECOND);
        assert!(peak > 4e8);
        load.observe(Duration::from_millis(1), 2 * SECOND);
        assert!(load.cost(2 * SECOND) > 3e8);
        assert!(load.cost(60 * SECOND) < 1e7);
    }

    #[test]
    fn excluded_endpoints_are_never_picked() {
        let loads: Vec<Load> = (0..4).map(|_| Load::default()).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let only = pick(4, 0, &mut random, |place| {
                (place == 3).then(|| &loads[place])
            });
            assert_eq!(only, Some(3));
        }
        assert_eq!(pick(4, 0, &mut random, |_| None), None);
        assert_eq!(pick(0, 0, &mut random, |_| None), None);
    }
}
