//! Memoization by object identity: a result holds for as long as it would be derived from the very
//! same objects.
//!
//! # When a memo is valid
//!
//! Watched objects are never modified but replaced, so the same `Arc` always has the same content.
//! An `Arc` that is kept here is not freed, so its address cannot be reused by another object.
//! Comparing pointers is therefore enough ([`ByIdentity`]), and costs the same for any object.
//!
//! A memo is invalid as soon as one of its inputs is another object, or as soon as its validity
//! check fails. Whatever a derivation reads has to be part of one of these. There are three ways:
//!
//! - All inputs are known beforehand: [`Memo`] compares them as a whole. For lists of objects, any
//!   object that was added, removed, replaced or moved invalidates the result.
//! - One result for each object, with inputs that all of them share: [`ObjectMemo::map`]. Another
//!   shared input invalidates all results, another object only its own.
//! - What a result depends on is known only once it is derived, because the object names other
//!   objects: [`ObjectMemo::map_valid`], with a record of the lookups. Routes work like this. A
//!   lookup that finds nothing is recorded as well, so that the result becomes invalid when the
//!   object is created.
//!
//! The third way is the one that can go wrong: a lookup that is not recorded leaves a stale route.
//! The compilation of a route therefore consists of function pointers, which cannot capture
//! anything, and their only access to other objects is
//! [`TrackedLookup`](crate::routes::TrackedLookup), which records each lookup.
//! [`Resolver::untracked_services`](crate::routes::Resolver::untracked_services) is for what is
//! derived anew in every translation, such as which Services have asked for their routes at
//! Gateways.
//!
//! A memo that is valid is not necessarily used: when all GatewayClasses are gone, the results for
//! Gateways are dropped. An invalid memo whose new result equals the last one can keep the identity
//! of the last one ([`Memo::get_interned`], [`intern`]), so that the memos that take it as an input
//! stay valid.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// Compares equal only to itself, not to another object of the same content.
#[derive(Debug)]
pub(crate) struct ByIdentity<T: ?Sized>(pub(crate) Arc<T>);

impl<T: ?Sized> ByIdentity<T> {
    pub(crate) fn of(of: &Arc<T>) -> Self {
        Self(Arc::clone(of))
    }
}

impl<T> ByIdentity<T> {
    /// Wraps every object of a list.
    pub(crate) fn all(list: &[Arc<T>]) -> Vec<Self> {
        list.iter().map(Self::of).collect()
    }
}

impl<T: ?Sized> Clone for ByIdentity<T> {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl<T: ?Sized> PartialEq for ByIdentity<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: ?Sized> Deref for ByIdentity<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Returns true if both lists hold the very same objects in the same order.
pub(crate) fn all_ptr_eq<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
}

/// Returns `before` if it equals `now`, so that unchanged values keep their identity.
pub(crate) fn intern<T: PartialEq>(now: T, before: Option<&Arc<T>>) -> Arc<T> {
    match before {
        Some(before) if **before == now => Arc::clone(before),
        _ => Arc::new(now),
    }
}

/// The last result and the inputs that it was derived from.
#[derive(Debug)]
pub(crate) struct Memo<I, O>(Option<(I, ByIdentity<O>)>);

impl<I, O> Default for Memo<I, O> {
    fn default() -> Self {
        Self(None)
    }
}

impl<I: PartialEq, O> Memo<I, O> {
    /// Returns the last result if `from` is unchanged, otherwise the result of `make`.
    pub(crate) fn get(&mut self, from: I, make: impl FnOnce() -> O) -> ByIdentity<O> {
        if let Some((known, made)) = &self.0
            && *known == from
        {
            return made.clone();
        }
        let made = ByIdentity(Arc::new(make()));
        self.0 = Some((from, made.clone()));
        made
    }

    /// Like [`Memo::get`], but keeps the identity of the last result if the new one equals it.
    pub(crate) fn get_interned(&mut self, from: I, make: impl FnOnce() -> O) -> ByIdentity<O>
    where
        O: PartialEq,
    {
        let before = self.0.as_ref().map(|(_, made)| made.clone());
        let now = self.get(from, make);
        match before {
            Some(before) if *before == *now => {
                if let Some((_, made)) = &mut self.0 {
                    made.clone_from(&before);
                }
                before
            }
            _ => now,
        }
    }
}

/// One result for each object of a list, derived from the object and the shared inputs `I`.
#[derive(Debug)]
pub(crate) struct ObjectMemo<T, I, O> {
    from: Option<I>,
    /// In the order of the list.
    known: Vec<(Arc<T>, O)>,
}

impl<T, I, O> Default for ObjectMemo<T, I, O> {
    fn default() -> Self {
        Self {
            from: None,
            known: Vec::new(),
        }
    }
}

impl<T, I: PartialEq, O: Clone> ObjectMemo<T, I, O> {
    /// Returns the results for `objects`, in their order; `make` derives those that are not known.
    pub(crate) fn map<'t>(
        &mut self,
        objects: impl IntoIterator<Item = &'t Arc<T>>,
        from: I,
        make: impl FnMut(&Arc<T>) -> O,
    ) -> Vec<O>
    where
        T: 't,
    {
        self.map_valid(objects, from, |_| true, make)
    }

    /// Like [`ObjectMemo::map`], for results that depend on more than the inputs: a known result is
    /// derived again unless it `holds`.
    pub(crate) fn map_valid<'t>(
        &mut self,
        objects: impl IntoIterator<Item = &'t Arc<T>>,
        from: I,
        holds: impl Fn(&O) -> bool,
        mut make: impl FnMut(&Arc<T>) -> O,
    ) -> Vec<O>
    where
        T: 't,
    {
        if self.from.as_ref() != Some(&from) {
            self.known.clear();
            self.from = Some(from);
        }
        let before = std::mem::take(&mut self.known);
        let objects: Vec<&Arc<T>> = objects.into_iter().collect();
        let stands = |at: usize, object: &Arc<T>| {
            let known = before.get(at);
            known.filter(|(known, _)| Arc::ptr_eq(known, object))
        };
        // The order of a list rarely changes, so the index of moved objects is built only when
        // needed.
        let moved = LazyCell::new(|| {
            let moved = before.iter().enumerate().filter(|(at, (known, _))| {
                let now = objects.get(*at);
                now.is_none_or(|now| !Arc::ptr_eq(known, now))
            });
            let moved = moved.map(|(_, entry)| (address(&entry.0), entry));
            moved.collect::<HashMap<_, _>>()
        });
        for (at, object) in objects.iter().enumerate() {
            let known = stands(at, object).or_else(|| moved.get(&address(object)).copied());
            let made = match known {
                Some((_, made)) if holds(made) => made.clone(),
                _ => make(object),
            };
            self.known.push((Arc::clone(object), made));
        }
        self.known.iter().map(|(_, made)| made.clone()).collect()
    }
}

fn address<T>(of: &Arc<T>) -> usize {
    Arc::as_ptr(of).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_input_is_derived_once() {
        let (one, other) = (Arc::new(1), Arc::new(1));
        let mut last = Memo::default();
        let first = last.get(ByIdentity::of(&one), || 10);
        assert_eq!(first, last.get(ByIdentity::of(&one), || unreachable!()));
        // Equal content, but another object.
        assert_ne!(first, last.get(ByIdentity::of(&other), || 10));
        assert_eq!(*last.get(ByIdentity::of(&one), || 20), 20);
    }

    #[test]
    fn equal_results_keep_their_identity() {
        let mut last = Memo::default();
        let first = last.get_interned(1, || "a");
        assert_eq!(first, last.get_interned(2, || "a"));
        assert_eq!(first, last.get_interned(2, || unreachable!()));
        assert_ne!(first, last.get_interned(3, || "b"));
    }

    #[test]
    fn only_new_objects_are_derived_in_any_order() {
        let objects: Vec<Arc<i32>> = (0..4).map(Arc::new).collect();
        let of = |places: &[usize]| -> Vec<Arc<i32>> {
            places.iter().map(|at| Arc::clone(&objects[*at])).collect()
        };
        let mut memo = ObjectMemo::default();
        let mut made = |list: &[Arc<i32>], from: &str| {
            let mut anew = Vec::new();
            let all = memo.map(list, from.to_owned(), |object| {
                anew.push(**object);
                format!("{from}{object}")
            });
            (all.join(" "), anew)
        };
        let expected = |all: &str, anew: &[i32]| (all.to_owned(), anew.to_vec());
        assert_eq!(made(&of(&[0, 1, 2]), "x"), expected("x0 x1 x2", &[0, 1, 2]));
        assert_eq!(made(&of(&[0, 1, 2]), "x"), expected("x0 x1 x2", &[]));
        assert_eq!(made(&of(&[3, 0, 2, 1]), "x"), expected("x3 x0 x2 x1", &[3]));
        assert_eq!(made(&of(&[2, 1]), "x"), expected("x2 x1", &[]));
        // Objects that were removed are forgotten.
        assert_eq!(made(&of(&[2, 1, 0]), "x"), expected("x2 x1 x0", &[0]));
        assert_eq!(made(&of(&[1]), "y"), expected("y1", &[1]));
    }

    #[test]
    fn invalid_results_are_derived_again_in_any_order() {
        let objects: Vec<Arc<i32>> = (0..2).map(Arc::new).collect();
        let turned: Vec<Arc<i32>> = objects.iter().rev().cloned().collect();
        let mut memo = ObjectMemo::default();
        let mut made = |list: &[Arc<i32>], odd_holds: bool, by: i32| {
            memo.map_valid(
                list,
                (),
                |made: &i32| odd_holds || made % 2 == 0,
                |of| **of + by,
            )
        };
        assert_eq!(made(&objects, true, 0), [0, 1]);
        assert_eq!(made(&objects, false, 10), [0, 11]);
        assert_eq!(made(&turned, false, 20), [21, 0]);
    }
}
