//! Bookkeeping of places: which connection has one, and which has to give it up. Without I/O.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// The number of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For all sources together, except protected ones.
    pub total: usize,
    /// For each source.
    pub per_source: usize,
    /// For each protected source, reserved for it.
    pub protected: usize,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Too many connections in total.
    Total,
    /// Too many connections of its source.
    Source,
    /// The process has no file descriptor left for a new connection.
    Files,
}

impl Reason {
    /// Returns the value for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Total => "limit",
            Self::Source => "source_limit",
            Self::Files => "no_files",
        }
    }
}

/// The places of one pool. `T` notifies the holder of a place.
#[derive(Debug)]
pub(crate) struct Places<T> {
    bounds: Bounds,
    next: u64,
    holders: HashMap<u64, Holder<T>>,
    /// Places of sources that are not protected, by number and therefore by age.
    strangers: BTreeSet<u64>,
    by_source: HashMap<IpAddr, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Holder<T> {
    source: IpAddr,
    tell: T,
}

/// A connection that lost its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost<T> {
    pub(crate) source: IpAddr,
    pub(crate) tell: T,
    pub(crate) reason: Reason,
}

impl<T> Places<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            holders: HashMap::new(),
            strangers: BTreeSet::new(),
            by_source: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Returns true if `source` can enter without another connection being closed.
    pub(crate) fn has_room(&self, source: IpAddr, protected: bool) -> bool {
        let of_source = self.by_source.get(&source).map_or(0, BTreeSet::len);
        of_source < self.of_one(protected)
            && (protected || self.strangers.len() < self.bounds.total)
    }

    fn of_one(&self, protected: bool) -> usize {
        match protected {
            true => self.bounds.protected,
            false => self.bounds.per_source,
        }
    }

    /// Assigns the newest place, and returns the connection that loses its own, if any.
    pub(crate) fn enter(
        &mut self,
        source: IpAddr,
        protected: bool,
        tell: T,
    ) -> (u64, Option<Lost<T>>) {
        let number = self.next;
        self.next += 1;
        self.holders.insert(number, Holder { source, tell });
        let most = self.of_one(protected);
        let of_source = self.by_source.entry(source).or_default();
        of_source.insert(number);
        let oldest_of_source = of_source
            .first()
            .copied()
            .filter(|_| of_source.len() > most);
        if !protected {
            self.strangers.insert(number);
        }
        let lost = match oldest_of_source {
            Some(oldest) => self.lose(oldest, Reason::Source),
            None if self.strangers.len() > self.bounds.total => self.lose_oldest(Reason::Total),
            None => None,
        };
        (number, lost)
    }

    /// Makes the place the newest, as if it had just been assigned.
    pub(crate) fn renew(&mut self, number: u64) -> u64 {
        let Some(holder) = self.holders.remove(&number) else {
            return number;
        };
        let newest = self.next;
        self.next += 1;
        if let Some(of_source) = self.by_source.get_mut(&holder.source) {
            of_source.remove(&number);
            of_source.insert(newest);
        }
        if self.strangers.remove(&number) {
            self.strangers.insert(newest);
        }
        self.holders.insert(newest, holder);
        newest
    }

    pub(crate) fn leave(&mut self, number: u64) {
        self.take(number);
    }

    /// Removes the oldest place of sources that are not protected.
    pub(crate) fn lose_oldest(&mut self, reason: Reason) -> Option<Lost<T>> {
        let oldest = *self.strangers.first()?;
        self.lose(oldest, reason)
    }

    fn lose(&mut self, number: u64, reason: Reason) -> Option<Lost<T>> {
        let Holder { source, tell } = self.take(number)?;
        Some(Lost {
            source,
            tell,
            reason,
        })
    }

    fn take(&mut self, number: u64) -> Option<Holder<T>> {
        let holder = self.holders.remove(&number)?;
        self.strangers.remove(&number);
        if let Some(of_source) = self.by_source.get_mut(&holder.source) {
            of_source.remove(&number);
            if of_source.is_empty() {
                self.by_source.remove(&holder.source);
            }
        }
        Some(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        total: 6,
        per_source: 4,
        protected: 2,
    };

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Enters as an unprotected source with a unique address.
    fn enter(places: &mut Places<&'static str>, last: u8, name: &'static str) -> Option<Shown> {
        shown(places.enter(source(last), false, name).1)
    }

    type Shown = (&'static str, Reason);

    fn shown(lost: Option<Lost<&'static str>>) -> Option<Shown> {
        lost.map(|lost| (lost.tell, lost.reason))
    }

    #[test]
    fn oldest_connection_of_the_largest_source_is_closed_first() {
        let mut places = Places::new(BOUNDS);
        assert_eq!(enter(&mut places, 1, "other"), None);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(enter(&mut places, 2, name), None);
        }
        assert_eq!(enter(&mut places, 2, "e"), Some(("a", Reason::Source)));
        assert_eq!(enter(&mut places, 2, "f"), Some(("b", Reason::Source)));
        assert_eq!(places.len(), 5);
    }

    #[test]
    fn oldest_connection_is_closed_when_many_sources_fill_the_places() {
        let mut places = Places::new(BOUNDS);
        for (last, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            assert_eq!(enter(&mut places, last as u8, name), None);
        }
        assert!(!places.has_room(source(9), false));
        assert_eq!(enter(&mut places, 9, "g"), Some(("a", Reason::Total)));
        assert_eq!(enter(&mut places, 9, "h"), Some(("b", Reason::Total)));
        assert_eq!(places.len(), BOUNDS.total);
    }

    #[test]
    fn protected_sources_keep_their_places() {
        let mut places = Places::new(BOUNDS);
        let (node, other) = (source(254), source(253));
        for name in ["probe", "hook"] {
            assert_eq!(places.enter(node, true, name).1, None);
        }
        for turn in 0..100 {
            let lost = enter(&mut places, turn, "stranger");
            assert!(matches!(lost, None | Some(("stranger", Reason::Total))));
        }
        assert_eq!(places.len(), BOUNDS.total + 2);
        // A protected source does not take the place of another one either.
        assert_eq!(shown(places.enter(other, true, "own").1), None);
        let lost = places.enter(node, true, "again").1;
        assert_eq!(shown(lost), Some(("probe", Reason::Source)));
    }

    #[test]
    fn released_place_is_free_again() {
        let mut places = Places::new(BOUNDS);
        let numbers: Vec<u64> = (0..4)
            .map(|_| places.enter(source(1), false, "a").0)
            .collect();
        assert!(!places.has_room(source(1), false));
        assert!(places.has_room(source(2), false));
        places.leave(numbers[2]);
        places.leave(numbers[2]);
        assert!(places.has_room(source(1), false));
        assert_eq!(enter(&mut places, 1, "b"), None);
        for number in numbers {
            places.leave(number);
        }
        assert_eq!(places.len(), 1);
        assert_eq!(places.by_source.len(), 1);
        assert_eq!(places.strangers.len(), 1);
    }

    #[test]
    fn renewed_place_is_the_newest() {
        let mut places = Places::new(BOUNDS);
        let used = places.enter(source(1), false, "used").0;
        for name in ["a", "b", "c"] {
            enter(&mut places, 1, name);
        }
        let used = places.renew(used);
        assert_eq!(enter(&mut places, 1, "d"), Some(("a", Reason::Source)));
        places.leave(used);
        assert_eq!(places.len(), 3);
        // A place that was lost stays lost.
        assert_eq!(places.renew(used), used);
        assert_eq!(places.len(), 3);
    }

    #[test]
    fn oldest_unprotected_connection_is_closed_without_files() {
        let mut places = Places::new(BOUNDS);
        places.enter(source(254), true, "probe");
        assert_eq!(places.lose_oldest(Reason::Files), None);
        enter(&mut places, 1, "a");
        enter(&mut places, 2, "b");
        let lost = places.lose_oldest(Reason::Files);
        assert_eq!(shown(lost), Some(("a", Reason::Files)));
    }
}
