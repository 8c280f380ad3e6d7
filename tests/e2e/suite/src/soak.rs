//! The one switch between tests that are done in minutes and tests that last as long as they say.
//!
//! `WEFT_SOAK=1` (`make soak` sets it) runs in full what is bound by time or size; without it the same tests run
//! shortened, which is what `make test` does.

use std::time::Duration;

/// Whether tests are to last as long as they say.
pub fn soaking() -> bool {
    std::env::var_os("WEFT_SOAK").is_some_and(|value| value == "1")
}

/// The full value when soaking, else the short one.
pub fn full_or<T>(full: T, short: T) -> T {
    if soaking() { full } else { short }
}

/// The longest that a test may take, its pods' start included.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(full_or(1_800, 180))
}

/// The longest for those that wait for what takes its time.
pub(crate) fn long_limit() -> Duration {
    Duration::from_secs(full_or(1_800, 300))
}
