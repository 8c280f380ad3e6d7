//! What an earlier pass derived, and what still holds of it: whatever was derived from the very same objects.
//!
//! What is watched is never changed but replaced, so that the same `Arc` has the same content. Nothing here knows what is
//! derived; an `Arc` that is held here is not freed, so that its place in memory is no other's.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// Equal to itself, and to nothing that only has the same content.
#[derive(Debug)]
pub(crate) struct Same<T: ?Sized>(pub(crate) Arc<T>);

impl<T: ?Sized> Same<T> {
    pub(crate) fn of(of: &Arc<T>) -> Self {
        Self(Arc::clone(of))
    }
}

impl<T> Same<T> {
    /// Each of a list.
    pub(crate) fn all(list: &[Arc<T>]) -> Vec<Self> {
        list.iter().map(Self::of).collect()
    }
}

impl<T: ?Sized> Clone for Same<T> {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl<T: ?Sized> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: ?Sized> Deref for Same<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Whether two lists hold the very same objects, in the same order.
pub(crate) fn same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
}

/// What says the same as before is the same.
pub(crate) fn alike<T: PartialEq>(now: T, before: Option<&Arc<T>>) -> Arc<T> {
    match before {
        Some(before) if **before == now => Arc::clone(before),
        _ => Arc::new(now),
    }
}

/// What was derived last, and from what.
#[derive(Debug)]
pub(crate) struct Last<I, O>(Option<(I, Same<O>)>);

impl<I, O> Default for Last<I, O> {
    fn default() -> Self {
        Self(None)
    }
}

impl<I: PartialEq, O> Last<I, O> {
    /// What `make` derives from `from`.
    pub(crate) fn get(&mut self, from: I, make: impl FnOnce() -> O) -> Same<O> {
        if let Some((known, made)) = &self.0
            && *known == from
        {
            return made.clone();
        }
        let made = Same(Arc::new(make()));
        self.0 = Some((from, made.clone()));
        made
    }

    /// As [`Last::get`]; what is derived anew and says the same is the same.
    pub(crate) fn get_alike(&mut self, from: I, make: impl FnOnce() -> O) -> Same<O>
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

/// What was derived from each object of a list, and from `I` besides.
#[derive(Debug)]
pub(crate) struct PerObject<T, I, O> {
    from: Option<I>,
    /// In the list's order.
    known: Vec<(Arc<T>, O)>,
}

impl<T, I, O> Default for PerObject<T, I, O> {
    fn default() -> Self {
        Self {
            from: None,
            known: Vec::new(),
        }
    }
}

impl<T, I: PartialEq, O: Clone> PerObject<T, I, O> {
    /// What `make` derives from each of `objects` and from `from`, in their order.
    pub(crate) fn map<'t>(
        &mut self,
        objects: impl IntoIterator<Item = &'t Arc<T>>,
        from: I,
        make: impl FnMut(&Arc<T>) -> O,
    ) -> Vec<O>
    where
        T: 't,
    {
        self.map_while(objects, from, |_| true, make)
    }

    /// As [`PerObject::map`], where what was made may depend on more: it is made anew unless it `holds`.
    pub(crate) fn map_while<'t>(
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
        // Lists seldom change their order: what does not stand where it stood is looked for.
        let moved = LazyCell::new(|| {
            let moved = before.iter().enumerate().filter(|(at, (known, _))| {
                let now = objects.get(*at);
                now.is_none_or(|now| !Arc::ptr_eq(known, now))
            });
            let moved = moved.map(|(_, entry)| (place(&entry.0), entry));
            moved.collect::<HashMap<_, _>>()
        });
        for (at, object) in objects.iter().enumerate() {
            let known = stands(at, object).or_else(|| moved.get(&place(object)).copied());
            let made = match known {
                Some((_, made)) if holds(made) => made.clone(),
                _ => make(object),
            };
            self.known.push((Arc::clone(object), made));
        }
        self.known.iter().map(|(_, made)| made.clone()).collect()
    }
}

fn place<T>(of: &Arc<T>) -> usize {
    Arc::as_ptr(of).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_same_is_derived_once() {
        let (one, other) = (Arc::new(1), Arc::new(1));
        let mut last = Last::default();
        let first = last.get(Same::of(&one), || 10);
        assert_eq!(first, last.get(Same::of(&one), || unreachable!()));
        // The same content, of another object.
        assert_ne!(first, last.get(Same::of(&other), || 10));
        assert_eq!(*last.get(Same::of(&one), || 20), 20);
    }

    #[test]
    fn what_comes_out_alike_is_the_same() {
        let mut last = Last::default();
        let first = last.get_alike(1, || "a");
        assert_eq!(first, last.get_alike(2, || "a"));
        assert_eq!(first, last.get_alike(2, || unreachable!()));
        assert_ne!(first, last.get_alike(3, || "b"));
    }

    #[test]
    fn of_a_list_only_what_is_new_is_derived_wherever_it_stands() {
        let objects: Vec<Arc<i32>> = (0..4).map(Arc::new).collect();
        let of = |places: &[usize]| -> Vec<Arc<i32>> {
            places.iter().map(|at| Arc::clone(&objects[*at])).collect()
        };
        let mut memo = PerObject::default();
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
        // What was gone is forgotten.
        assert_eq!(made(&of(&[2, 1, 0]), "x"), expected("x2 x1 x0", &[0]));
        assert_eq!(made(&of(&[1]), "y"), expected("y1", &[1]));
    }

    #[test]
    fn what_no_longer_holds_is_derived_anew_wherever_it_stands() {
        let objects: Vec<Arc<i32>> = (0..2).map(Arc::new).collect();
        let turned: Vec<Arc<i32>> = objects.iter().rev().cloned().collect();
        let mut memo = PerObject::default();
        let mut made = |list: &[Arc<i32>], odd_holds: bool, by: i32| {
            memo.map_while(list, (), |made| odd_holds || made % 2 == 0, |of| **of + by)
        };
        assert_eq!(made(&objects, true, 0), [0, 1]);
        assert_eq!(made(&objects, false, 10), [0, 11]);
        assert_eq!(made(&turned, false, 20), [21, 0]);
    }
}
