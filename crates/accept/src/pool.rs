//! Connection limits shared by the tasks that serve connections.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::places::{Bounds, Lost, Places, Reason};
use crate::protected::Protected;
use crate::throttle::Throttle;

/// Interval of the log line about closed connections.
const LINE: Duration = Duration::from_secs(10);

/// A listening port, as metrics and logs name it.
#[derive(Clone, Debug)]
pub struct Port(Arc<Named>);

#[derive(Debug)]
struct Named {
    name: &'static str,
    metrics: Metrics,
    lines: Throttle,
    errors: Throttle,
}

impl Port {
    pub fn new(name: &'static str, metrics: &Metrics) -> Self {
        Self(Arc::new(Named {
            name,
            metrics: metrics.clone(),
            lines: Throttle::new(1, LINE),
            errors: Throttle::new(1, LINE),
        }))
    }

    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Logs that a connection could not be accepted.
    pub(crate) fn failed(&self, error: &io::Error) {
        if let Some(unlogged) = self.0.errors.pass() {
            tracing::warn!(listener = self.0.name, %error, unlogged, "failed to accept a connection");
        }
    }

    /// Counts a connection that is closed although its client did nothing wrong.
    pub fn reject(&self, reason: &'static str, source: IpAddr) {
        self.0.metrics.rejected(self.0.name, reason);
        if let Some(unlogged) = self.0.lines.pass() {
            tracing::warn!(
                listener = self.0.name,
                reason,
                client = %source,
                unlogged,
                "connections are closed by limits before they are established"
            );
        }
    }
}

/// A limited set of connections. Clones share the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    port: Port,
    protected: Protected,
    places: Mutex<Places<CancellationToken>>,
}

impl Pool {
    pub fn new(port: &Port, bounds: Bounds, protected: &Protected) -> Self {
        Self(Arc::new(Shared {
            port: port.clone(),
            protected: protected.clone(),
            places: Mutex::new(Places::new(bounds)),
        }))
    }

    /// Assigns a place to a connection. Beyond the limits, another connection loses its own.
    pub fn enter(&self, source: IpAddr) -> Place {
        let source = source.to_canonical();
        let lost = CancellationToken::new();
        let number = self.number(source, &lost);
        let held = Held {
            pool: self.clone(),
            number,
        };
        Place {
            source,
            lost,
            held: Mutex::new(held),
        }
    }

    fn number(&self, source: IpAddr, tell: &CancellationToken) -> u64 {
        let protected = self.0.protected.contains(source);
        let (number, lost) = self.lock().enter(source, protected, tell.clone());
        self.tell(lost);
        number
    }

    /// Returns true if a connection of `source` would get a place without another being closed.
    pub fn has_room(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let protected = self.0.protected.contains(source);
        self.lock().has_room(source, protected)
    }

    /// Returns the number of connections that have a place.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the oldest connection to free a file descriptor. Returns false if there is none.
    pub(crate) fn relieve(&self) -> bool {
        let lost = self.lock().lose_oldest(Reason::Files);
        self.tell(lost)
    }

    fn tell(&self, lost: Option<Lost<CancellationToken>>) -> bool {
        let Some(lost) = lost else {
            return false;
        };
        lost.tell.cancel();
        self.0.port.reject(lost.reason.word(), lost.source);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Places<CancellationToken>> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, released on drop.
#[derive(Debug)]
pub struct Place {
    source: IpAddr,
    lost: CancellationToken,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    pool: Pool,
    number: u64,
}

impl Place {
    /// Moves the connection to another pool.
    pub fn move_to(&self, pool: &Pool) {
        let mut held = self.held();
        held.pool.lock().leave(held.number);
        *held = Held {
            number: pool.number(self.source, &self.lost),
            pool: pool.clone(),
        };
    }

    /// Marks the connection as used, which makes it the newest.
    pub fn renew(&self) {
        let mut held = self.held();
        let number = held.pool.lock().renew(held.number);
        held.number = number;
    }

    /// Completes when the connection has to be closed in favor of another.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// The token that [`Place::lost`] waits for.
    pub fn token(&self) -> &CancellationToken {
        &self.lost
    }

    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Counts that the connection is closed for inactivity.
    pub fn silent(&self) {
        let port = self.held().pool.0.port.clone();
        port.reject("timeout", self.source);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held = self.held();
        held.pool.lock().leave(held.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(metrics: &Metrics, total: usize) -> Pool {
        let bounds = Bounds {
            total,
            per_source: 2,
            protected: 2,
        };
        Pool::new(&Port::new("test", metrics), bounds, &Protected::default())
    }

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn lost_place_is_counted() {
        let metrics = Metrics::default();
        let pool = pool(&metrics, 3);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let places = [source(1), mapped, source(2), source(1), source(3)].map(|s| pool.enter(s));
        let lost = places.each_ref().map(|place| place.token().is_cancelled());
        assert_eq!(lost, [true, true, false, false, false]);
        assert_eq!(metrics.count("test", "source_limit"), 1);
        assert_eq!(metrics.count("test", "limit"), 1);
        assert_eq!(pool.len(), 3);
        drop(places);
        assert!(pool.is_empty());
    }

    #[test]
    fn established_connections_have_limits_of_their_own() {
        let metrics = Metrics::default();
        let (unfinished, established) = (pool(&metrics, 2), pool(&metrics, 2));
        let place = unfinished.enter(source(1));
        place.move_to(&established);
        let others: Vec<_> = (2..9).map(|last| unfinished.enter(source(last))).collect();
        assert!(!place.token().is_cancelled());
        assert_eq!((unfinished.len(), established.len()), (2, 1));
        let more: Vec<_> = (2..4)
            .map(|last| {
                let place = unfinished.enter(source(last));
                place.move_to(&established);
                place
            })
            .collect();
        assert!(place.token().is_cancelled());
        drop((place, others, more));
        assert_eq!((unfinished.len(), established.len()), (0, 0));
    }

    #[test]
    fn unestablished_connection_is_closed_without_files() {
        let metrics = Metrics::default();
        let pool = pool(&metrics, 9);
        assert!(!pool.relieve());
        let place = pool.enter(source(1));
        assert!(pool.relieve());
        assert!(place.token().is_cancelled());
        assert_eq!(metrics.count("test", "no_files"), 1);
    }
}
