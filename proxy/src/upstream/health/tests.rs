use std::num::NonZeroU32;

use futures::FutureExt;
use weft_ir::CheckTiming;

use super::*;

fn settings(unhealthy: u32, healthy: u32) -> HealthChecks {
    let second = Duration::from_secs(1);
    HealthChecks {
        timing: CheckTiming::new(second, second).unwrap(),
        unhealthy_threshold: NonZeroU32::new(unhealthy).unwrap(),
        healthy_threshold: NonZeroU32::new(healthy).unwrap(),
        check: HealthCheck::Tcp,
    }
}

#[test]
fn state_changes_after_its_threshold_of_results_in_a_row() {
    let gauge = Gauge::default();
    let state = HealthState::new(gauge.clone());
    let settings = settings(3, 2);
    // Failed checks, passed ones, and when the state changes.
    let results = "ff.ff.fffff.f..f";
    let seen: String = results
        .chars()
        .map(|result| match state.record(result == '.', &settings) {
            true => 'x',
            false => '-',
        })
        .collect();
    assert_eq!(seen, "--------x-----x-");
    assert_eq!(gauge.get(), 0);
}

#[test]
fn endpoint_that_goes_is_no_longer_unhealthy() {
    let gauge = Gauge::default();
    let state = HealthState::new(gauge.clone());
    assert!(state.record(false, &settings(1, 1)));
    assert_eq!(gauge.get(), 1);
    drop(state);
    assert_eq!(gauge.get(), 0);
    drop(HealthState::new(gauge.clone()));
    assert_eq!(gauge.get(), 0);
}

#[test]
fn pauses_differ_by_up_to_a_tenth_of_the_interval() {
    let interval = Duration::from_secs(10);
    let random = &mut fastrand::Rng::with_seed(7);
    let pauses: Vec<Duration> = (0..1000).map(|_| pause(interval, random)).collect();
    let least = pauses.iter().min().unwrap().as_millis();
    let most = pauses.iter().max().unwrap().as_millis();
    assert!((9_000..9_050).contains(&least), "{least}");
    assert!((10_950..=11_000).contains(&most), "{most}");
}

#[test]
fn cluster_is_checked_for_ten_intervals_after_its_last_use() {
    let interval = Duration::from_secs(30);
    let at = |seconds: u64| Timestamp::START + Duration::from_secs(seconds);
    assert!(!is_idle(at(100), at(100), interval));
    assert!(!is_idle(at(100), at(400), interval));
    assert!(is_idle(
        at(100),
        at(400) + Duration::from_nanos(1),
        interval
    ));
    // The clock of another thread is behind.
    assert!(!is_idle(at(100), at(99), interval));
}

#[test]
fn each_cluster_has_a_place_of_its_own() {
    let shared = Semaphore::new(2);
    let (greedy, other) = (Semaphore::new(1), Semaphore::new(1));
    let take = |own| place(own, &shared).now_or_never().flatten();
    let held = [take(&greedy), take(&greedy), take(&greedy)];
    assert!(held.iter().all(Option::is_some));
    assert!(take(&greedy).is_none(), "all places but those of others");
    assert!(take(&other).is_some());
    drop(held);
    assert!(take(&greedy).is_some());
}
