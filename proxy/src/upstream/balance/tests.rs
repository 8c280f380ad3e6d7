use std::time::Duration;

use super::*;

const START: Timestamp = Timestamp::START;

fn second(of: u64) -> Timestamp {
    Timestamp::START + Duration::from_secs(of)
}

fn addresses(count: u8) -> Vec<SocketAddr> {
    let address = |n| SocketAddr::from(([10, 0, 0, n], 80));
    (0..count).map(address).collect()
}

fn per_request(algorithm: Algorithm, window: u64) -> BalancingMethod {
    BalancingMethod::PerRequest {
        algorithm,
        slow_start: SlowStart::new(Duration::from_secs(window)),
    }
}

fn first_version(algorithm: Algorithm, count: u8) -> Balancing {
    Balancing::new(
        Some(&per_request(algorithm, 0)),
        &addresses(count),
        None,
        START,
    )
}

/// Picks so often among endpoints that are all the same; returns how often each was picked.
fn shares(of: &Balancing, count: usize, picks: usize, now: Timestamp) -> Vec<usize> {
    let loads: Vec<Load> = (0..count).map(|_| Load::default()).collect();
    for load in &loads {
        load.observe(Duration::from_millis(1), now);
    }
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = vec![0; count];
    for _ in 0..picks {
        let place = of.pick((0, count), now, &mut random, |place| Some(&loads[place]));
        taken[place.unwrap()] += 1;
    }
    taken
}

#[test]
fn equal_endpoints_have_equal_shares_under_every_algorithm() {
    for (algorithm, tolerance) in [
        (Algorithm::PeakEwma, 200),
        (Algorithm::LeastRequest, 200),
        (Algorithm::RoundRobin, 1),
        (Algorithm::Random, 200),
    ] {
        let taken = shares(&first_version(algorithm, 10), 10, 10_000, second(1));
        let is_share = |taken: &usize| taken.abs_diff(1_000) <= tolerance;
        assert!(taken.iter().all(is_share), "{algorithm:?}: {taken:?}");
    }
}

#[test]
fn least_request_goes_by_requests_in_flight_and_not_by_latency() {
    let balancing = first_version(Algorithm::LeastRequest, 2);
    let (slow, busy) = (Load::default(), Load::default());
    slow.observe(Duration::from_secs(1), second(1));
    busy.begin();
    let mut random = fastrand::Rng::with_seed(7);
    let mut draw = || {
        balancing.pick((0, 2), second(1), &mut random, |at| {
            Some([&slow, &busy][at])
        })
    };
    assert!((0..20).all(|_| draw() == Some(0)));
}

#[test]
fn turns_go_on_when_endpoints_come() {
    let settings = per_request(Algorithm::RoundRobin, 0);
    let (old, new) = (addresses(3), addresses(4));
    let first = Balancing::new(Some(&settings), &old, None, START);
    let second = Balancing::new(Some(&settings), &new, Some((&first, &old)), START);
    match (&first.algorithm, &second.algorithm) {
        (Balancer::RoundRobin(old, 3), Balancer::RoundRobin(new, 4)) => {
            assert!(Arc::ptr_eq(old, new));
        }
        _ => panic!("turns"),
    }
}

#[test]
fn new_endpoint_has_a_growing_share_under_every_algorithm() {
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
    ] {
        let settings = per_request(algorithm, 10);
        let (old, new) = (addresses(3), addresses(4));
        let first = Balancing::new(Some(&settings), &old, None, START);
        let grown = Balancing::new(Some(&settings), &new, Some((&first, &old)), second(100));
        for (age, percent) in [(0, 10), (5, 55), (10, 100), (1_000, 100)] {
            let taken = shares(&grown, 4, 40_000, second(100 + age));
            // Of a quarter; in turns of what another one gets.
            let share = taken[3] as f64 / 100.0;
            let expected = f64::from(percent);
            assert!(
                (0.85..1.35).contains(&(share / expected)),
                "{algorithm:?} {age}: {taken:?}"
            );
        }
    }
}

#[test]
fn new_endpoints_take_all_requests_if_there_are_no_others() {
    let settings = per_request(Algorithm::PeakEwma, 10);
    let first = Balancing::new(Some(&settings), &[], None, START);
    let new = Balancing::new(
        Some(&settings),
        &addresses(2),
        Some((&first, &[])),
        second(1),
    );
    let taken = shares(&new, 2, 1_000, second(1));
    assert!(taken.iter().all(|taken| *taken > 400), "{taken:?}");
}

#[test]
fn preferred_endpoint_spills_only_when_crowded_and_costlier() {
    let (near, far) = (Load::default(), Load::default());
    near.observe(Duration::from_millis(100), second(1));
    far.observe(Duration::from_millis(1), second(1));
    let spills = |of: Algorithm| Balancer::new(of, 2, None).should_spill(&near, &far, second(1));
    (1..CROWDED_REQUESTS).for_each(|_| near.begin());
    assert!(!spills(Algorithm::PeakEwma), "slow but not crowded");
    assert!(!spills(Algorithm::LeastRequest), "not crowded");
    near.begin();
    assert!(spills(Algorithm::PeakEwma) && spills(Algorithm::LeastRequest));
    assert!(!spills(Algorithm::RoundRobin) && !spills(Algorithm::Random));
    (0..100).for_each(|_| (0..100).for_each(|_| far.begin()));
    assert!(
        !spills(Algorithm::PeakEwma) && !spills(Algorithm::LeastRequest),
        "the other endpoint is no better"
    );
}

#[test]
fn ring_is_shared_by_versions_with_the_same_endpoints() {
    let hash = |load_factor| {
        BalancingMethod::ConsistentHash(ConsistentHash {
            key: HashKey::SourceAddress,
            load_factor,
        })
    };
    let (three, four) = (addresses(3), addresses(4));
    let first = Balancing::new(Some(&hash(None)), &three, None, START);
    let bounded = hash(weft_ir::LoadFactor::new(125));
    let same = Balancing::new(Some(&bounded), &three, Some((&first, &three)), START);
    let other = Balancing::new(Some(&bounded), &four, Some((&first, &three)), START);
    let ring = |of: &Balancing| Arc::as_ptr(&of.by_key.as_ref().unwrap().ring);
    assert_eq!(ring(&first), ring(&same));
    assert_ne!(ring(&first), ring(&other));
}
