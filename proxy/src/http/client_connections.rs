//! The open connections of a gateway's clients. At the bound on connections one of them is evicted
//! for the newest: the longest idle one of the source that has the most. So a source that fills a
//! gateway displaces itself.
//!
//! Opening and closing a connection take a lock; a request touches atomics of its own connection
//! alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock::{AtomicTimestamp, Clock, Timestamp};

/// Candidates that one scan collects: under a flood not every connection costs a scan.
const MAX_CANDIDATES: usize = 64;
/// The pause after a scan that found none.
const SCAN_PAUSE: Duration = Duration::from_millis(100);
/// The part of an IPv6 address that is one client: whoever has an address has all of its /64.
const IPV6_PREFIX: u128 = !0 << 64;

/// All connections of clients; clones are the same.
#[derive(Clone)]
pub struct ClientConnections(Arc<Table>);

struct Table {
    clock: Clock,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    by_source: HashMap<IpAddr, HashMap<u64, Arc<State>>>,
    /// Idle connections to be evicted next, the last one first; each with the time since which it
    /// was idle when it was found.
    candidates: Vec<(Timestamp, Arc<State>)>,
    /// The end of the pause after a scan that found none.
    pause: Option<Instant>,
}

struct State {
    source: IpAddr,
    /// Requests in flight.
    requests: AtomicU32,
    /// The end of the last request, or the opening.
    idle_since: AtomicTimestamp,
    evicted: CancellationToken,
}

impl State {
    fn idle_since(&self) -> Option<Timestamp> {
        let idle = self.requests.load(Relaxed) == 0 && !self.evicted.is_cancelled();
        idle.then(|| self.idle_since.load())
    }
}

impl Default for ClientConnections {
    fn default() -> Self {
        Self(Arc::new(Table {
            clock: Clock::start(),
            open: Mutex::default(),
        }))
    }
}

impl ClientConnections {
    /// Adds a connection of `source`, idle for now.
    pub fn insert(&self, source: IpAddr) -> ClientConnection {
        let source = source_prefix(source);
        let state = Arc::new(State {
            source,
            requests: AtomicU32::new(0),
            idle_since: AtomicTimestamp::new(self.0.clock.now()),
            evicted: CancellationToken::new(),
        });
        let mut open = self.0.open();
        let number = open.next;
        open.next += 1;
        let of_source = open.by_source.entry(source).or_default();
        of_source.insert(number, state.clone());
        drop(open);
        ClientConnection {
            of: self.0.clone(),
            number,
            state,
        }
    }

    /// Evicts the longest idle connection, of the source that has the most connections and any that
    /// is idle. Returns the source, or `None` if no connection is idle.
    pub fn evict(&self) -> Option<IpAddr> {
        let mut open = self.0.open();
        if let Some(source) = open.evict_candidate() {
            return Some(source);
        }
        let now = Instant::now();
        if open.pause.is_some_and(|end| now < end) {
            return None;
        }
        open.scan();
        let evicted = open.evict_candidate();
        open.pause = evicted.is_none().then(|| now + SCAN_PAUSE);
        evicted
    }
}

impl Open {
    /// Evicts the next candidate that has been idle ever since.
    fn evict_candidate(&mut self) -> Option<IpAddr> {
        while let Some((since, state)) = self.candidates.pop() {
            if state.idle_since() == Some(since) {
                state.evicted.cancel();
                return Some(state.source);
            }
        }
        None
    }

    fn scan(&mut self) {
        let mut sources: Vec<_> = self.by_source.values().collect();
        sources.sort_unstable_by_key(|connections| std::cmp::Reverse(connections.len()));
        let idle = |state: &Arc<State>| Some((state.idle_since()?, state.clone()));
        for connections in sources {
            let mut candidates: Vec<_> = connections.values().filter_map(idle).collect();
            if candidates.is_empty() {
                continue;
            }
            // The longest idle of them, the longest one last. Never more than half: the source may
            // have closed some itself.
            let count = MAX_CANDIDATES.min(candidates.len().div_ceil(2));
            candidates.select_nth_unstable_by_key(count - 1, |(since, _)| *since);
            candidates.truncate(count);
            candidates.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
            self.candidates = candidates;
            return;
        }
    }
}

impl Table {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of one connection, removed on drop.
pub struct ClientConnection {
    of: Arc<Table>,
    number: u64,
    state: Arc<State>,
}

impl ClientConnection {
    /// Records that a request has begun, until [`ClientConnection::request_ended`].
    pub fn request_started(&self) {
        self.state.requests.fetch_add(1, Relaxed);
    }

    pub fn request_ended(&self, at: Instant) {
        self.state.idle_since.store(self.of.clock.at(at));
        self.state.requests.fetch_sub(1, Relaxed);
    }

    /// Returns the token that is cancelled when the connection is evicted.
    pub fn evicted(&self) -> &CancellationToken {
        &self.state.evicted
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut open = self.of.open();
        let source = self.state.source;
        if let Some(of_source) = open.by_source.get_mut(&source) {
            of_source.remove(&self.number);
            if of_source.is_empty() {
                open.by_source.remove(&source);
            }
        }
    }
}

fn source_prefix(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_PREFIX).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Connections of one source, the earlier ones idle for longer.
    fn idle(clients: &ClientConnections, last: u8, count: u64) -> Vec<ClientConnection> {
        let enter = |since| {
            let client = clients.insert(source(last));
            let since = Timestamp::START + Duration::from_millis(since);
            client.state.idle_since.store(since);
            client
        };
        (0..count).map(enter).collect()
    }

    fn evicted(clients: &[ClientConnection]) -> Vec<bool> {
        let evicted = |client: &ClientConnection| client.evicted().is_cancelled();
        clients.iter().map(evicted).collect()
    }

    #[test]
    fn eviction_closes_longest_idle_connection_of_busiest_source() {
        let clients = ClientConnections::default();
        let few = idle(&clients, 1, 2);
        let many = idle(&clients, 2, 4);
        many[0].request_started();
        assert_eq!(clients.evict(), Some(source(2)));
        assert_eq!(evicted(&many), [false, true, false, false]);
        // The candidate of the last scan that is no longer idle is skipped.
        many[2].request_started();
        assert_eq!(clients.evict(), Some(source(2)));
        assert_eq!(evicted(&many), [false, true, false, true]);
        assert_eq!(evicted(&few), [false, false]);
    }

    #[test]
    fn eviction_spares_connections_with_active_or_recent_requests() {
        let clients = ClientConnections::default();
        let all = idle(&clients, 1, 3);
        all[0].request_started();
        all[0].request_started();
        all[0].request_ended(Instant::now() + Duration::from_secs(9));
        all[1].request_started();
        all[1].request_ended(Instant::now() + Duration::from_secs(9));
        assert_eq!(clients.evict(), Some(source(1)));
        assert_eq!(evicted(&all), [false, false, true]);
        assert_eq!(clients.evict(), Some(source(1)));
        assert_eq!(evicted(&all), [false, true, true]);
        assert_eq!(clients.evict(), None, "a request is in flight");
    }

    #[test]
    fn eviction_takes_next_source_when_busiest_has_no_idle_connection() {
        let clients = ClientConnections::default();
        let busy = idle(&clients, 1, 9);
        busy.iter().for_each(ClientConnection::request_started);
        let other = idle(&clients, 2, 1);
        assert_eq!(clients.evict(), Some(source(2)));
        drop((busy, other));
        assert!(clients.0.open().by_source.is_empty());
        assert_eq!(clients.evict(), None);
    }

    #[test]
    fn ipv6_prefix_counts_as_one_source() {
        let clients = ClientConnections::default();
        let all = [
            "2001:db8::1",
            "2001:db8::2:1",
            "2001:db8:0:1::1",
            "::ffff:10.0.0.1",
        ];
        let _open = all.map(|address| clients.insert(address.parse().unwrap()));
        let open = clients.0.open();
        assert_eq!(open.by_source.len(), 3);
        assert!(open.by_source.contains_key(&source(1)));
    }
}
