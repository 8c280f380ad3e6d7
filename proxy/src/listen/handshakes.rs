//! Connections of which nothing is known yet: many of them cost memory and say nothing. Beyond a bound the one that has
//! been at it the longest gives way, so that clients who get on with it always find a place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Places, of a whole proxy.
const MAX: usize = 4_096;

#[derive(Default)]
pub(super) struct Handshakes(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    next: u64,
    /// In the order in which they began.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// A place, until it is dropped.
pub(super) struct Place {
    number: u64,
    lost: CancellationToken,
    of: Arc<Mutex<Places>>,
}

impl Handshakes {
    pub(super) fn begin(&self) -> Place {
        let mut places = lock(&self.0);
        let number = places.next;
        places.next += 1;
        let lost = CancellationToken::new();
        places.waiting.insert(number, lost.clone());
        if places.waiting.len() > MAX
            && let Some((_, oldest)) = places.waiting.pop_first()
        {
            oldest.cancel();
        }
        let of = self.0.clone();
        Place { number, lost, of }
    }
}

impl Place {
    /// Resolves when the place is another's.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.of).waiting.remove(&self.number);
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_places_come_back() {
        let handshakes = Handshakes::default();
        let mut places: Vec<_> = (0..MAX).map(|_| handshakes.begin()).collect();
        let lost = |place: &Place| place.lost.is_cancelled();
        assert!(!places.iter().any(lost));
        drop(places.remove(7));
        places.push(handshakes.begin());
        assert!(!places.iter().any(lost));
        places.push(handshakes.begin());
        assert!(lost(&places[0]));
        assert!(!places[1..].iter().any(lost));
        drop(places);
        assert!(lock(&handshakes.0).waiting.is_empty());
    }
}
