//! Limits of requests and connections.
//!
//! Source: Envoy, `config.cluster.v3.CircuitBreakers`, with a queue that is first in, first out.

use std::num::NonZeroU32;
use std::time::Duration;

/// How much a Service port gets at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of each client's proxy, which counts for itself.
    pub client: ClientLimits,
    /// Of each pod, whose proxy counts the requests of all clients.
    pub server: Option<RequestLimit>,
}

/// What a client's proxy sends to all endpoints of the port together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections that are forwarded as bytes; `None`: not limited.
    pub max_connections: Option<NonZeroU32>,
    /// Requests; `None`: not limited.
    pub requests: Option<RequestLimit>,
}

/// A limit of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimit {
    /// Requests under way.
    pub max_requests: NonZeroU32,
    /// Where further ones wait; `None`: they fail at once.
    pub queue: Option<Queue>,
}

impl RequestLimit {
    /// Returns the smaller one of each number.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        let queues = self.queue.zip(other.queue);
        Self {
            max_requests: self.max_requests.min(other.max_requests),
            queue: queues.map(|(one, other)| Queue {
                max_pending: one.max_pending.min(other.max_pending),
                timeout: one.timeout.min(other.timeout),
            }),
        }
    }
}

/// A queue of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    max_pending: NonZeroU32,
    timeout: Duration,
}

impl Queue {
    /// The shortest bound of a wait.
    pub const LEAST: Duration = Duration::from_millis(1);
    /// The longest one.
    pub const MOST: Duration = Duration::from_secs(60);

    /// Returns `None` unless [`Queue::LEAST`] <= `timeout` <= [`Queue::MOST`].
    pub fn new(max_pending: NonZeroU32, timeout: Duration) -> Option<Self> {
        let fits = Self::LEAST <= timeout && timeout <= Self::MOST;
        fits.then_some(Self {
            max_pending,
            timeout,
        })
    }

    /// The most requests that wait.
    pub fn max_pending(self) -> NonZeroU32 {
        self.max_pending
    }

    /// The longest wait.
    pub fn timeout(self) -> Duration {
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max_requests: u32, queue: Option<(u32, u64)>) -> RequestLimit {
        let count = |number| NonZeroU32::new(number).unwrap();
        let queue = queue
            .map(|(most, millis)| Queue::new(count(most), Duration::from_millis(millis)).unwrap());
        RequestLimit {
            max_requests: count(max_requests),
            queue,
        }
    }

    #[test]
    fn strictest_limit_has_the_smaller_number_of_each_field() {
        for (one, other, both) in [
            (limit(1, None), limit(2, None), limit(1, None)),
            (limit(3, Some((5, 10))), limit(2, None), limit(2, None)),
            (
                limit(3, Some((5, 10))),
                limit(2, Some((9, 1))),
                limit(2, Some((5, 1))),
            ),
        ] {
            assert_eq!(one.strictest(other), both);
            assert_eq!(other.strictest(one), both);
        }
    }

    #[test]
    fn wait_is_bounded() {
        let queue = |millis| Queue::new(NonZeroU32::MIN, Duration::from_millis(millis));
        assert_eq!((queue(0), queue(60_001)), (None, None));
        assert!(queue(1).is_some() && queue(60_000).is_some());
    }
}
