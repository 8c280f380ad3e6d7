//! Keeps deleted objects for a while, so that an object that is deleted and created again is not
//! missed in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::object::ObjectKey;

#[derive(Debug)]
pub(super) struct Linger<T> {
    time: Duration,
    /// Marks an object as deleted.
    mark: fn(&T) -> T,
    gone: HashMap<ObjectKey, (Arc<T>, Instant)>,
}

impl<T> Linger<T> {
    pub(super) fn new(time: Duration, mark: fn(&T) -> T) -> Self {
        Self {
            time,
            mark,
            gone: HashMap::new(),
        }
    }

    /// Adds an object that was deleted now.
    pub(super) fn gone(&mut self, key: ObjectKey, object: &T) {
        let until = Instant::now() + self.time;
        let object = Arc::new((self.mark)(object));
        self.gone.insert(key, (object, until));
    }

    /// Removes an object that was created again.
    pub(super) fn back(&mut self, key: &ObjectKey) {
        self.gone.remove(key);
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = Arc<T>> {
        self.gone.values().map(|(object, _)| Arc::clone(object))
    }

    pub(super) fn clear(&mut self) {
        self.gone.clear();
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.gone.values().map(|(_, until)| *until).min()
    }

    /// Removes the objects whose time is over; returns true if there were any.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        let before = self.gone.len();
        self.gone.retain(|_, (_, until)| *until > now);
        self.gone.len() != before
    }
}
