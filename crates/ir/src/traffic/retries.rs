//! Retries of what is sent to a Service port.

use crate::route::Retry;

/// When a request is retried, unless its rule says so itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// As in a rule; no attempts: never.
    pub retry: Retry,
    /// Statuses that a gRPC call is retried for as well.
    pub grpc_statuses: GrpcStatuses,
}

/// A set of gRPC statuses, OK excepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcStatuses(u32);

impl GrpcStatuses {
    /// The names of the statuses, from 1 on.
    pub const NAMES: [&str; 16] = [
        "Cancelled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];

    /// Adds a status. Returns `None` unless it is 1 to 16.
    pub fn with(self, status: u32) -> Option<Self> {
        (1..=16)
            .contains(&status)
            .then(|| Self(self.0 | 1 << status))
    }

    /// Adds the status of this name. Returns `None` if there is none.
    pub fn with_name(self, name: &str) -> Option<Self> {
        let place = Self::NAMES.iter().position(|known| *known == name)?;
        self.with(u32::try_from(place + 1).ok()?)
    }

    /// Returns true if the status is in the set.
    pub fn contains(self, status: i32) -> bool {
        u32::try_from(status).is_ok_and(|status| status <= 16 && self.0 & (1 << status) != 0)
    }

    /// Returns true if no status is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The statuses, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (1..=16).filter(move |status| self.0 & (1 << status) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_holds_the_statuses_from_1_to_16() {
        let none = GrpcStatuses::default();
        for status in [0, 17, 32, u32::MAX] {
            assert_eq!(none.with(status), None, "{status}");
        }
        let set = none.with(16).and_then(|set| set.with(14));
        let set = set.and_then(|set| set.with_name("Cancelled")).unwrap();
        assert_eq!(set.iter().collect::<Vec<u32>>(), [1, 14, 16]);
        for (status, is_in) in [(1, true), (14, true), (16, true), (0, false), (13, false)] {
            assert_eq!(set.contains(status), is_in, "{status}");
        }
        assert!(!set.contains(-1) && !set.contains(i32::MAX) && !set.contains(46));
        assert_eq!(none.with_name("OK"), None);
        assert_eq!(none.with_name("Unavailable"), none.with(14));
    }
}
