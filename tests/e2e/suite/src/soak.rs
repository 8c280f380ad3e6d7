//! Switches between short and full-length tests.
//!
//! With `WEFT_SOAK=1` (set by `make soak`) tests that are bound by time or size run at full length;
//! without it, as in `make test`, they are shortened.

use std::time::Duration;

/// Returns true if tests run at full length.
pub fn soaking() -> bool {
    std::env::var_os("WEFT_SOAK").is_some_and(|value| value == "1")
}

/// Returns the full value in a soak run, else the short one.
pub fn full_or<T>(full: T, short: T) -> T {
    if soaking() { full } else { short }
}

/// The time limit of a test, including the start of its pods.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(full_or(1_800, 180))
}

/// The time limit of long tests.
pub(crate) fn long_limit() -> Duration {
    Duration::from_secs(full_or(1_800, 300))
}
