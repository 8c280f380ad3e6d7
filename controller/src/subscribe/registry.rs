//! Who is connected, and what each proxy says is in force with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_ir::ResourceKey;

use super::input::Refusal;
use super::session::Acked;
use crate::watch::ObjectKey;

/// What a proxy said of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// This version is in force.
    InForce(u64),
    /// This version was refused, for this reason; an earlier one may be in force.
    Refused(u64, String),
}

/// Every open stream.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    streams: HashMap<u64, Stream>,
    /// Streams of each pod; never 0.
    pods: HashMap<ObjectKey, usize>,
}

#[derive(Debug)]
struct Stream {
    pod: ObjectKey,
    held: HashMap<ResourceKey, Held>,
}

impl Registry {
    /// Enters a stream of `pod`, which holds `held` from before, until the answer is dropped.
    pub fn enter(
        &self,
        pod: ObjectKey,
        held: &[(ResourceKey, u64)],
        max_streams: usize,
    ) -> Result<Registered, Refusal> {
        let mut inner = self.lock();
        let streams = inner.pods.entry(pod.clone()).or_default();
        if *streams >= max_streams {
            return Err(Refusal::TooManyStreams(max_streams));
        }
        *streams += 1;
        inner.last += 1;
        let id = inner.last;
        let held = held
            .iter()
            .map(|(key, version)| (key.clone(), Held::InForce(*version)))
            .collect();
        inner.streams.insert(id, Stream { pod, held });
        let registry = self.clone();
        Ok(Registered { registry, id })
    }

    /// The pods that were sent a resource, and what each says of it.
    pub fn holders(&self, key: &ResourceKey) -> Vec<(ObjectKey, Held)> {
        let inner = self.lock();
        let streams = inner.streams.values();
        streams
            .filter_map(|stream| Some((stream.pod.clone(), stream.held.get(key)?.clone())))
            .collect()
    }

    pub fn streams(&self) -> usize {
        self.lock().streams.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's place in the registry.
#[derive(Debug)]
pub struct Registered {
    registry: Registry,
    id: u64,
}

impl Registered {
    pub fn record(&self, acked: Acked) {
        let mut inner = self.registry.lock();
        let Some(stream) = inner.streams.get_mut(&self.id) else {
            return;
        };
        for (key, version) in acked.in_force {
            match version {
                Some(version) => drop(stream.held.insert(key, Held::InForce(version))),
                None => drop(stream.held.remove(&key)),
            }
        }
        for (key, version, reason) in acked.refused {
            stream.held.insert(key, Held::Refused(version, reason));
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        let Some(stream) = inner.streams.remove(&self.id) else {
            return;
        };
        if let Some(streams) = inner.pods.get_mut(&stream.pod) {
            *streams -= 1;
            if *streams == 0 {
                inner.pods.remove(&stream.pod);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_has_what_in_force_until_the_stream_ends() {
        let registry = Registry::default();
        let pod = ObjectKey::new("shop", "web-0");
        let stream = registry
            .enter(pod.clone(), &[(ResourceKey::Workload, 1)], 4)
            .unwrap();
        let holders = || registry.holders(&ResourceKey::Workload);
        assert_eq!(holders(), [(pod.clone(), Held::InForce(1))]);
        stream.record(Acked {
            in_force: vec![],
            refused: vec![(ResourceKey::Workload, 2, "no".into())],
        });
        assert_eq!(holders(), [(pod.clone(), Held::Refused(2, "no".into()))]);
        stream.record(Acked {
            in_force: vec![(ResourceKey::Workload, None)],
            refused: vec![],
        });
        assert_eq!(holders(), []);
        drop(stream);
        assert_eq!(registry.streams(), 0);
    }

    #[test]
    fn streams_of_one_pod_are_bounded_and_make_room_when_they_end() {
        let registry = Registry::default();
        let enter = || registry.enter(ObjectKey::new("shop", "web-0"), &[], 2);
        let (first, _second) = (enter().unwrap(), enter().unwrap());
        assert_eq!(enter().unwrap_err(), Refusal::TooManyStreams(2));
        drop(first);
        enter().unwrap();
    }
}
