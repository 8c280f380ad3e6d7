//! Which endpoint a client was given, for Services that want each client to keep its own
//! (`sessionAffinity: ClientIP`).
//!
//! A bounded number is remembered, for all clusters of the proxy together; those that were used
//! least lately are forgotten first. Who is forgotten is given the endpoint that [`score`] ranks
//! first, as on the first time: while a Service's endpoints stay the same, that is the same one,
//! and the same for all proxies.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// Sessions in each of the two halves: some 2 MB when both are full.
const HALF: usize = 8_192;

/// By the cluster's name, which outlives the cluster, and the client.
type Key = (Arc<str>, IpAddr);

#[derive(Clone, Copy)]
struct Session {
    endpoint: SocketAddr,
    used: Timestamp,
}

/// The sessions of a proxy.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Halves>);

/// What is used goes into the young half; when that is full, the old one is forgotten and the young
/// one grows old.
#[derive(Default)]
struct Halves {
    young: HashMap<Key, Session>,
    old: HashMap<Key, Session>,
}

impl Sessions {
    /// The endpoint that the client was given, which counts as used now; `None` when it has not
    /// been for `kept`.
    pub(super) fn find(
        &self,
        cluster: &Arc<str>,
        client: IpAddr,
        now: Timestamp,
        kept: Duration,
    ) -> Option<SocketAddr> {
        let key = (Arc::clone(cluster), client);
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Halves { young, old } = &mut *halves;
        let session = *young.get(&key).or_else(|| old.get(&key))?;
        if now.since(session.used) > kept {
            young.remove(&key);
            old.remove(&key);
            return None;
        }
        halves.put(key, session.endpoint, now);
        Some(session.endpoint)
    }

    /// Remembers that the client was given the endpoint.
    pub(super) fn put(
        &self,
        cluster: &Arc<str>,
        client: IpAddr,
        endpoint: SocketAddr,
        now: Timestamp,
    ) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.put((Arc::clone(cluster), client), endpoint, now);
    }
}

impl Halves {
    fn put(&mut self, key: Key, endpoint: SocketAddr, used: Timestamp) {
        if self.young.len() >= HALF && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Session { endpoint, used });
    }
}

/// How well an endpoint suits a client: the client is given the highest (rendezvous hashing), so
/// that an endpoint that comes or goes changes the choice of few.
pub(super) fn score(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, endpoint).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::START;

    fn client(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn endpoint(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    #[test]
    fn affinity_session_expires_when_unused() {
        let (sessions, cluster) = (Sessions::default(), Arc::from("shop/a:80"));
        let kept = Duration::from_secs(10);
        let find = |second| {
            let now = START + Duration::from_secs(second);
            sessions.find(&cluster, client(1), now, kept)
        };
        assert_eq!(find(0), None);
        sessions.put(&cluster, client(1), endpoint(1), START);
        // Each use extends the session.
        assert_eq!(find(9), Some(endpoint(1)));
        assert_eq!(find(19), Some(endpoint(1)));
        assert_eq!(find(30), None);
        assert_eq!(
            sessions.find(&Arc::from("shop/b:80"), client(1), START, kept),
            None
        );
    }

    #[test]
    fn session_table_is_bounded_and_evicts_least_recently_used() {
        let (sessions, cluster) = (Sessions::default(), Arc::from("shop/a:80"));
        let kept = Duration::from_secs(10_800);
        for n in 0..100_000 {
            sessions.put(&cluster, client(n), endpoint(1), START);
            assert!(
                sessions.find(&cluster, client(0), START, kept).is_some(),
                "{n}"
            );
        }
        let halves = sessions.0.lock().unwrap();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF);
        drop(halves);
        assert!(
            sessions
                .find(&cluster, client(99_999), START, kept)
                .is_some()
        );
        assert!(sessions.find(&cluster, client(1), START, kept).is_none());
    }

    #[test]
    fn added_endpoint_takes_its_share_and_moves_no_other_client() {
        let best = |of: u32, endpoints: u8| {
            (0..endpoints)
                .max_by_key(|n| score(client(of), endpoint(*n)))
                .unwrap()
        };
        let mut moved = 0;
        for of in 0..4_000 {
            let (before, after) = (best(of, 3), best(of, 4));
            if before != after {
                assert_eq!(after, 3, "clients move only to the added endpoint");
                moved += 1;
            }
        }
        assert!((900..1_100).contains(&moved), "{moved}");
    }
}
