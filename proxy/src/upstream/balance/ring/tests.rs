use super::*;

fn addresses(count: u32) -> Vec<SocketAddr> {
    let address = |n: u32| SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 80));
    (1..=count).map(address).collect()
}

fn keys(count: u64) -> impl Iterator<Item = Key> {
    (0..count).map(|n| Key::of(&n.to_be_bytes()))
}

fn all(_: usize) -> bool {
    true
}

fn factor(percent: u32) -> LoadFactor {
    LoadFactor::new(percent).unwrap()
}

#[test]
fn endpoint_that_leaves_moves_its_own_keys_only() {
    const KEYS: u64 = 20_000;
    let before = addresses(100);
    for left in [0, 42, 99] {
        let mut after = before.clone();
        let gone = after.remove(left);
        let (old, new) = (Ring::new(&before), Ring::new(&after));
        let mut moved = 0;
        for key in keys(KEYS) {
            let old = before[old.find(key, all).unwrap()];
            let new = after[new.find(key, all).unwrap()];
            assert!(old == new || old == gone, "{old} to {new}");
            moved += u64::from(old != new);
        }
        assert!((1..=KEYS / 50).contains(&moved), "{moved}");
    }
}

/// Between 992 and 993 endpoints the number of points of each changes.
#[test]
fn number_of_points_hardly_moves_keys_of_large_sets() {
    const KEYS: u64 = 10_000;
    for count in [255, 256, 512, 992] {
        let (small, large) = (addresses(count), addresses(count + 1));
        let (old, new) = (Ring::new(&small), Ring::new(&large));
        let moved = keys(KEYS).filter(|key| {
            small[old.find(*key, all).unwrap()] != large[new.find(*key, all).unwrap()]
        });
        let moved = moved.count() as u64;
        assert!(moved <= KEYS / 33, "{count}: {moved}");
    }
}

#[test]
fn order_of_endpoints_is_of_no_consequence() {
    let forwards = addresses(300);
    let mut shuffled = forwards.clone();
    fastrand::Rng::with_seed(7).shuffle(&mut shuffled);
    let (one, other) = (Ring::new(&forwards), Ring::new(&shuffled));
    for key in keys(5_000) {
        let (one, other) = (one.find(key, all), other.find(key, all));
        assert_eq!(forwards[one.unwrap()], shuffled[other.unwrap()]);
    }
}

/// Proxies of different versions share keys: a change here moves those of all users.
#[test]
fn keys_have_the_same_endpoints_in_every_version() {
    let mut addresses = addresses(10);
    addresses.push("[fd00::1]:8080".parse().unwrap());
    let ring = Ring::new(&addresses);
    let places = ["alice", "bob", "carol", "dave", "erin", "frank"]
        .map(|user| ring.find(Key::of(user.as_bytes()), all).unwrap());
    assert_eq!(places, [9, 2, 0, 4, 3, 4]);
}

#[test]
fn endpoints_have_similar_shares_and_points_are_bounded() {
    const KEYS: u64 = 100_000;
    let ring = Ring::new(&addresses(10));
    let mut taken = [0_u64; 10];
    for key in keys(KEYS) {
        taken[ring.find(key, all).unwrap()] += 1;
    }
    let is_similar = |taken: &u64| (KEYS / 10).abs_diff(*taken) < KEYS / 50;
    assert!(taken.iter().all(is_similar), "{taken:?}");
    for (count, points) in [
        (0, 0),
        (1, 256),
        (256, MAX_POINTS),
        (257, 257 * 255),
        (1000, 65_000),
    ] {
        assert_eq!(Ring::new(&addresses(count)).points.len(), points, "{count}");
    }
    assert_eq!(Ring::new(&addresses(70_000)).points.len(), 70_000);
}

#[test]
fn next_endpoint_on_the_ring_stands_in_and_is_not_always_the_same() {
    let ring = Ring::new(&addresses(10));
    let mut instead = std::collections::BTreeSet::new();
    for key in keys(2_000) {
        let own = ring.find(key, all).unwrap();
        let next = ring.find(key, |place| place != own).unwrap();
        assert_ne!(own, next);
        assert_eq!(ring.find(key, |place| place == 3), Some(3));
        if own == 5 {
            instead.insert(next);
        }
    }
    assert_eq!(instead.len(), 9, "{instead:?}");
    assert_eq!(ring.find(Key::of(b"a"), |_| false), None);
    assert_eq!(Ring::new(&[]).find(Key::of(b"a"), all), None);
}

#[test]
fn hot_key_is_bounded_by_the_factor_of_the_average() {
    for (percent, count) in [(100, 10), (125, 10), (150, 7), (1000, 50)] {
        let ring = Ring::new(&addresses(count));
        let mut active = vec![0_u32; count as usize];
        let mut random = fastrand::Rng::with_seed(7);
        let mut under_way = Vec::new();
        for request in 0..5_000 {
            // A request in ten has another key; responses come in any order.
            let key = match request % 10 {
                0 => Key::of(&[request as u8]),
                _ => Key::of(b"hot"),
            };
            let place = ring.find_bounded(key, factor(percent), all, |place| active[place]);
            let place = place.unwrap();
            active[place] += 1;
            under_way.push(place);
            let average = under_way.len() as f64 / f64::from(count);
            let most = f64::from(percent) / 100.0 * average + 1.0;
            assert!(f64::from(active[place]) <= most, "{percent} %: {active:?}");
            if under_way.len() > 200 {
                let ended = under_way.swap_remove(random.usize(..under_way.len()));
                active[ended] -= 1;
            }
        }
    }
}

#[test]
fn bounded_load_keeps_the_endpoint_while_it_has_room() {
    let ring = Ring::new(&addresses(4));
    let key = Key::of(b"a");
    let own = ring.find(key, all).unwrap();
    // Requests of its own, and of each of the others.
    for (own_active, others, percent, stays) in [
        (0, 0, 100, true),
        (0, 9, 100, true),
        (1, 0, 125, false),
        (4, 4, 125, true),
        (6, 4, 125, false),
        (9, 0, 400, true),
        (9, 0, 300, false),
    ] {
        let active = |place| if place == own { own_active } else { others };
        let found = ring.find_bounded(key, factor(percent), all, active);
        assert_eq!(found == Some(own), stays, "{own_active} {others} {percent}");
    }
    // There is no other.
    let only = ring.find_bounded(key, factor(100), |place| place == own, |_| 1_000);
    assert_eq!(only, Some(own));
}
