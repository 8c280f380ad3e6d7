//! Consistent hashing: each endpoint has points on a ring, and a key belongs to the endpoint of the
//! next point. The endpoints that come or go move the keys of their own points only.
//!
//! Source: Karger et al., "Consistent hashing and random trees" (1997); for bounded load Mirrokni,
//! Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018).

use std::net::{IpAddr, SocketAddr};

use weft_ir::LoadFactor;

use super::key::Key;
use super::xxh64::xxh64;

/// Points of all endpoints of a ring, but for one of each.
const MAX_POINTS: usize = 1 << 16;
/// Points of one endpoint: its share of the keys is within some 6 % of the average.
const POINTS_EACH: usize = 256;
/// Points that are looked at before it is asked whether any endpoint fits.
const NEAR: usize = 64;

/// The points of a cluster's endpoints. The same for all proxies, whatever the order of the
/// endpoints.
pub(super) struct Ring {
    /// In order: the point in the upper half, the place of its endpoint in the lower half.
    points: Vec<u64>,
    /// The number of endpoints.
    count: usize,
}

impl Ring {
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let count = addresses.len();
        let each = (MAX_POINTS / count.max(1)).clamp(1, POINTS_EACH);
        // Of equal points the one of the lower address comes first.
        let mut places: Vec<usize> = (0..count).collect();
        places.sort_by_key(|place| addresses[*place]);
        let mut points = Vec::with_capacity(count * each);
        for (rank, place) in places.iter().enumerate() {
            let bytes = bytes(addresses[*place]);
            let hashes = (0..each as u64).map(|point| xxh64(&bytes, point));
            points.extend(hashes.map(|hash| hash & !LOW | rank as u64));
        }
        points.sort_unstable();
        for point in &mut points {
            *point = *point & !LOW | places[(*point & LOW) as usize] as u64;
        }
        Self { points, count }
    }

    /// Returns the place of the key's endpoint, or of the first one after it that fits.
    pub(super) fn find(&self, key: Key, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.points.partition_point(|point| *point < key.0 & !LOW);
        let (before, after) = self.points.split_at(first);
        let places = after.iter().chain(before).map(|point| *point & LOW);
        let mut places = places.map(|place| place as usize);
        let near = places.by_ref().take(NEAR).find(|place| fits(*place));
        near.or_else(|| {
            let any = (0..self.count).any(&fits);
            any.then(|| places.find(|place| fits(*place))).flatten()
        })
    }

    /// As [`Ring::find`], and the endpoint has at most the factor times the average of the requests
    /// in flight to those that fit, this one included. `active` gives those of an endpoint.
    pub(super) fn find_bounded(
        &self,
        key: Key,
        factor: LoadFactor,
        fits: impl Fn(usize) -> bool,
        active: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let own = self.find(key, &fits)?;
        // Every endpoint may have one.
        if active(own) == 0 {
            return Some(own);
        }
        let (mut count, mut total) = (0, 0);
        for place in (0..self.count).filter(|place| fits(*place)) {
            count += 1;
            total += u64::from(active(place));
        }
        let most = bound(factor, total, count);
        let room = |place: usize| u64::from(active(place)) < most;
        if room(own) {
            return Some(own);
        }
        // Not all have more than the average; unless that has changed meanwhile.
        self.find(key, |place| fits(place) && room(place))
            .or(Some(own))
    }
}

/// The lower half of a point.
const LOW: u64 = u32::MAX as u64;

/// Returns how many requests an endpoint may have when one comes to `total` at `count` endpoints.
fn bound(factor: LoadFactor, total: u64, count: u64) -> u64 {
    let share = u64::from(factor.percent()) * (total + 1);
    share.div_ceil(100 * count.max(1))
}

/// The bytes that an endpoint's points are made of: its IPv6 address, or IPv4-mapped address, and
/// its port.
fn bytes(address: SocketAddr) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&octets(address.ip()));
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// The bytes of an IPv6 address, or of the IPv4-mapped address.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests;
