//! Timeouts of what is sent to a Service port.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::route::Timeouts;

/// How long what is sent to a Service port may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyTimeouts {
    /// Of requests whose rules do not say so themselves.
    pub requests: Timeouts,
    /// Of connecting to an endpoint for a request.
    pub connect: Option<ConnectTimeout>,
}

/// How long a request waits for a connection to an endpoint, before it goes to another one. In
/// milliseconds, because every request under way holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectTimeout(NonZeroU16);

impl ConnectTimeout {
    /// The shortest one: a handshake between zones takes some milliseconds.
    pub const LEAST: Duration = Duration::from_millis(10);
    /// The longest one, which is that without a policy.
    pub const MOST: Duration = Duration::from_secs(5);

    /// Returns `None` unless [`ConnectTimeout::LEAST`] <= limit <= [`ConnectTimeout::MOST`].
    pub fn new(limit: Duration) -> Option<Self> {
        let fits = (Self::LEAST..=Self::MOST).contains(&limit);
        let millis = u16::try_from(limit.as_millis()).ok();
        let millis = millis.and_then(NonZeroU16::new).filter(|_| fits)?;
        Some(Self(millis))
    }

    /// Returns the time.
    pub fn get(self) -> Duration {
        Duration::from_millis(self.0.get().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_timeout_is_bounded() {
        for (millis, is_valid) in [(9, false), (10, true), (5_000, true), (5_001, false)] {
            let limit = Duration::from_millis(millis);
            assert_eq!(
                ConnectTimeout::new(limit).map(ConnectTimeout::get),
                is_valid.then_some(limit)
            );
        }
    }
}
