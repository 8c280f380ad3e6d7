//! The bound on the memory of replay buffers.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The memory of the replay buffers of all requests together.
#[derive(Debug)]
pub struct ReplayMemory {
    most: usize,
    held: AtomicUsize,
}

impl ReplayMemory {
    /// `most`: bytes at one time.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            held: AtomicUsize::new(0),
        }
    }

    /// Reserves `length` bytes. Returns false if there is no room.
    pub fn reserve(&self, length: usize) -> bool {
        let before = self.held.fetch_add(length, Relaxed);
        let fits = before.saturating_add(length) <= self.most;
        if !fits {
            self.release(length);
        }
        fits
    }

    pub fn release(&self, length: usize) {
        self.held.fetch_sub(length, Relaxed);
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}
