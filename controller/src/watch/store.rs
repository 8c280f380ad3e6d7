//! The objects of one kind, as of the last watch event.
//!
//! Keeps its objects while a watch is interrupted or lists again, and returns whether an event
//! changed anything that translation or the statuses depend on. Does no I/O.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::watcher::Event;
use serde_json::Value;
use tokio::time::Instant;

use super::linger::Linger;
use super::object::{Entry, ObjectKey, Watched};

/// What an event has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Something that translation reads, or the completion of the initial list.
    pub objects: bool,
    /// A status entry of this controller.
    pub statuses: bool,
}

/// An object that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub key: ObjectKey,
    pub reason: Arc<str>,
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Store<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    objects: HashMap<ObjectKey, Entry<T>>,
    /// The list in progress.
    incoming: Option<HashMap<ObjectKey, Entry<T>>>,
    listed: bool,
    /// The cluster does not serve the kind.
    absent: bool,
    /// Recently deleted objects, if the kind keeps them.
    linger: Option<Linger<T>>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        let inner = Inner {
            objects: HashMap::new(),
            incoming: None,
            listed: false,
            absent: false,
            linger: None,
        };
        Self {
            inner: Mutex::new(inner),
        }
    }
}

impl<T: PartialEq> Store<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // No code that can panic runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an event. For an object that cannot be read, the earlier version stays.
    pub fn apply(&self, event: Event<Watched<T>>) -> (Changed, Option<Unreadable>) {
        let mut inner = self.lock();
        match event {
            Event::Init => {
                inner.incoming = Some(HashMap::new());
                (Changed::default(), None)
            }
            Event::InitApply(object) => {
                let key = object.key();
                let (entry, unreadable) = match object.body {
                    Ok(entry) => (Some(entry), None),
                    Err(reason) => {
                        let known = inner.objects.get(&key).cloned();
                        let key = key.clone();
                        (known, Some(Unreadable { key, reason }))
                    }
                };
                if let Some(entry) = entry {
                    inner.incoming.get_or_insert_default().insert(key, entry);
                }
                (Changed::default(), unreadable)
            }
            Event::InitDone => {
                let incoming = inner.incoming.take().unwrap_or_default();
                (inner.replace(incoming, false), None)
            }
            Event::Apply(object) => {
                let key = object.key();
                match object.body {
                    Ok(entry) => (inner.insert(key, entry), None),
                    Err(reason) => (Changed::default(), Some(Unreadable { key, reason })),
                }
            }
            Event::Delete(object) => {
                let key = object.key();
                let removed = inner.objects.remove(&key);
                if let (Some(entry), Some(linger)) = (&removed, &mut inner.linger) {
                    linger.gone(key, &entry.object);
                }
                let removed = removed.is_some();
                let changed = Changed {
                    objects: removed,
                    statuses: removed,
                };
                (changed, None)
            }
        }
    }

    /// Empties the store, because the cluster does not serve the kind; the store counts as listed.
    pub fn absent(&self) -> Changed {
        let mut inner = self.lock();
        inner.incoming = None;
        let changed = inner.replace(HashMap::new(), true);
        if let Some(linger) = &mut inner.linger {
            linger.clear();
        }
        changed
    }

    /// Keeps objects that are deleted from now on for `time`, marked by `mark`.
    pub fn linger(&self, time: Duration, mark: fn(&T) -> T) {
        self.lock().linger = Some(Linger::new(time, mark));
    }

    /// Returns when the first deleted object is to be removed.
    pub fn next_end(&self) -> Option<Instant> {
        self.lock().linger.as_ref()?.next_end()
    }

    /// Lets go of those that have lingered until `now`.
    pub fn end(&self, now: Instant) -> Changed {
        let mut inner = self.lock();
        let ended = inner.linger.as_mut().is_some_and(|of| of.end(now));
        Changed {
            objects: ended,
            statuses: false,
        }
    }

    /// Whether everything there was at the start has been seen.
    pub fn listed(&self) -> bool {
        self.lock().listed
    }

    pub fn len(&self) -> usize {
        self.lock().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn objects(&self) -> Vec<Arc<T>> {
        let inner = self.lock();
        let objects = inner.objects.values();
        let objects = objects.map(|entry| Arc::clone(&entry.object));
        let lingering = inner.linger.iter().flat_map(|of| of.objects());
        objects.chain(lingering).collect()
    }

    /// As [`Store::objects`]; `None` when the cluster does not have the kind.
    pub fn objects_if_served(&self) -> Option<Vec<Arc<T>>> {
        let absent = self.lock().absent;
        (!absent).then(|| self.objects())
    }

    /// Returns the status entries of this controller, of every object.
    pub fn own_entries(&self) -> HashMap<ObjectKey, Arc<[Value]>> {
        let inner = self.lock();
        let entries = inner.objects.iter();
        entries
            .map(|(key, entry)| (key.clone(), Arc::clone(&entry.own)))
            .collect()
    }
}

impl<T: PartialEq> Inner<T> {
    fn insert(&mut self, key: ObjectKey, entry: Entry<T>) -> Changed {
        if let Some(linger) = &mut self.linger {
            linger.back(&key);
        }
        match self.objects.entry(key) {
            Slot::Occupied(mut known) => {
                let changed = difference(known.get(), &entry);
                known.insert(entry);
                changed
            }
            Slot::Vacant(slot) => {
                slot.insert(entry);
                Changed {
                    objects: true,
                    statuses: true,
                }
            }
        }
    }

    fn replace(&mut self, incoming: HashMap<ObjectKey, Entry<T>>, absent: bool) -> Changed {
        let first = !std::mem::replace(&mut self.listed, true);
        let came_or_went = std::mem::replace(&mut self.absent, absent) != absent;
        let mut changed = Changed {
            objects: first || came_or_went || incoming.len() != self.objects.len(),
            statuses: first || incoming.len() != self.objects.len(),
        };
        for (key, entry) in &incoming {
            let here = match self.objects.get(key) {
                Some(known) => difference(known, entry),
                None => Changed {
                    objects: true,
                    statuses: true,
                },
            };
            changed.objects |= here.objects;
            changed.statuses |= here.statuses;
        }
        if let Some(linger) = &mut self.linger {
            for (key, entry) in &self.objects {
                if !incoming.contains_key(key) {
                    linger.gone(key.clone(), &entry.object);
                }
            }
            incoming.keys().for_each(|key| linger.back(key));
        }
        self.objects = incoming;
        changed
    }
}

fn difference<T: PartialEq>(known: &Entry<T>, new: &Entry<T>) -> Changed {
    Changed {
        objects: known.object != new.object,
        statuses: known.own != new.own,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_translate::objects::Service;

    fn service(name: &str, ip: &str) -> Watched<Service> {
        let object = json!({
            "metadata": {"name": name, "namespace": "n", "resourceVersion": "1"},
            "spec": {"clusterIP": ip},
        });
        serde_json::from_value(object).unwrap()
    }

    fn broken(name: &str) -> Watched<Service> {
        let object = json!({"metadata": {"name": name, "namespace": "n"}, "spec": 5});
        serde_json::from_value(object).unwrap()
    }

    fn listed(objects: Vec<Watched<Service>>) -> Store<Service> {
        let store = Store::default();
        store.apply(Event::Init);
        for object in objects {
            store.apply(Event::InitApply(object));
        }
        store.apply(Event::InitDone);
        store
    }

    const NOTHING: Changed = Changed {
        objects: false,
        statuses: false,
    };

    #[test]
    fn store_is_listed_once_the_list_is_complete() {
        let store = Store::default();
        store.apply(Event::Init);
        store.apply(Event::InitApply(service("a", "10.0.0.1")));
        assert!(!store.listed() && store.is_empty());
        let (changed, _) = store.apply(Event::InitDone);
        assert!(store.listed() && changed.objects);
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn empty_list_completes() {
        let store = listed(Vec::new());
        assert!(store.listed());
    }

    #[test]
    fn equal_object_is_no_change() {
        let store = listed(vec![service("a", "10.0.0.1")]);
        let again = store.apply(Event::Apply(service("a", "10.0.0.1")));
        assert_eq!(again, (NOTHING, None));
        store.apply(Event::Init);
        store.apply(Event::InitApply(service("a", "10.0.0.1")));
        assert_eq!(store.apply(Event::InitDone).0, NOTHING);
    }

    #[test]
    fn new_list_replaces_the_objects_at_its_end() {
        let store = listed(vec![service("a", "10.0.0.1"), service("b", "10.0.0.2")]);
        store.apply(Event::Init);
        store.apply(Event::InitApply(service("b", "10.0.0.2")));
        assert_eq!(store.len(), 2);
        assert!(store.apply(Event::InitDone).0.objects);
        assert_eq!(store.objects()[0].metadata.name, "b");
    }

    #[test]
    fn unreadable_object_is_returned_and_the_last_version_stays() {
        let store = listed(vec![service("a", "10.0.0.1")]);
        let (changed, unreadable) = store.apply(Event::Apply(broken("a")));
        assert_eq!(changed, NOTHING);
        assert_eq!(unreadable.unwrap().key, ObjectKey::new("n", "a"));
        store.apply(Event::Init);
        assert!(store.apply(Event::InitApply(broken("a"))).1.is_some());
        assert!(store.apply(Event::InitApply(broken("new"))).1.is_some());
        assert_eq!(store.apply(Event::InitDone).0, NOTHING);
        assert_eq!(store.objects()[0].spec.cluster_ip, "10.0.0.1");
    }

    #[test]
    fn absent_kind_is_an_empty_listed_store() {
        let store = listed(vec![service("a", "10.0.0.1")]);
        assert!(store.absent().objects);
        assert!(store.listed() && store.is_empty());
        assert_eq!(store.objects_if_served(), None);
    }

    #[test]
    fn empty_and_absent_kinds_differ() {
        let store = listed(Vec::new());
        assert_eq!(store.objects_if_served(), Some(Vec::new()));
        assert!(store.absent().objects);
        assert_eq!(store.absent(), NOTHING);
        store.apply(Event::Init);
        assert!(store.apply(Event::InitDone).0.objects);
        assert_eq!(store.objects_if_served(), Some(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_objects_are_kept_for_a_while() {
        let store: Store<Service> = Store::default();
        store.linger(Duration::from_secs(60), |of| {
            let mut of = of.clone();
            of.metadata.uid = "gone".to_owned();
            of
        });
        let known = || {
            let objects = store.objects().into_iter();
            let mut known: Vec<_> = objects
                .map(|of| (of.metadata.name.clone(), of.metadata.uid.clone()))
                .collect();
            known.sort();
            known
        };
        let pair = |name: &str, uid: &str| (name.to_owned(), uid.to_owned());
        store.apply(Event::Apply(service("a", "1")));
        store.apply(Event::Apply(service("b", "1")));
        let (changed, _) = store.apply(Event::Delete(service("a", "1")));
        assert!(changed.objects);
        assert_eq!(known(), [pair("a", "gone"), pair("b", "")]);
        store.apply(Event::Apply(service("a", "2")));
        assert_eq!(known(), [pair("a", ""), pair("b", "")], "created again");
        assert_eq!(store.next_end(), None);

        // A watch that broke off shows the deletion by the next list.
        store.apply(Event::Init);
        store.apply(Event::InitApply(service("b", "1")));
        store.apply(Event::InitDone);
        assert_eq!(known(), [pair("a", "gone"), pair("b", "")]);
        let end = store.next_end().unwrap();
        assert_eq!(end, Instant::now() + Duration::from_secs(60));
        assert!(!store.end(end - Duration::from_millis(1)).objects);
        assert!(store.end(end).objects);
        assert_eq!(known(), [pair("b", "")]);
        store.apply(Event::Delete(service("b", "1")));
        store.absent();
        assert_eq!(known(), []);
    }
}
