//! Shared values that their owner removes once nobody uses them.
//!
//! The owner and the users share one `Arc`, so a lease costs what a clone of an `Arc` costs, and
//! nothing counts it a second time. [`Owner`] cannot be cloned: every other `Arc` of the value is a
//! lease, whatever other copies of a map hold the owner.

use std::ops::Deref;
use std::sync::Arc;

/// The only owner of a shared value.
#[derive(Debug)]
pub struct Owner<T>(Arc<T>);

impl<T> Owner<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// Owns a value that was made as an `Arc`, and that nobody else holds.
    pub fn of(value: Arc<T>) -> Self {
        Self(value)
    }

    /// Returns a lease: the value is in use until it, and every clone of it, is dropped.
    pub fn lease(&self) -> Arc<T> {
        Arc::clone(&self.0)
    }

    /// Returns true while a lease exists. If it returns false, only [`Owner::lease`] can change
    /// that.
    pub fn is_leased(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl<T> Deref for Owner<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_leased_until_the_last_clone_is_dropped() {
        let owner = Arc::new(Owner::new(1));
        // Another map with the same owner uses nothing.
        let copy = Arc::clone(&owner);
        assert!(!owner.is_leased());
        let lease = copy.lease();
        let clone = Arc::clone(&lease);
        drop(lease);
        assert!(owner.is_leased());
        drop(clone);
        assert!(!owner.is_leased());
    }
}
