//! Which key sets are fetched, and in which order: the controller fetches a bounded number, and no
//! namespace uses up the share of others.

use std::collections::{BTreeMap, HashSet};

use crate::objects::KeySource;

/// Returns each source once: the first of every namespace, then the second of every namespace, and
/// so on. `sources` are with their namespace, those of the oldest policies first.
pub(super) fn in_turns<'s>(
    sources: impl Iterator<Item = (&'s str, &'s KeySource)>,
) -> Vec<KeySource> {
    let mut by_namespace: BTreeMap<&str, Vec<&KeySource>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for (namespace, source) in sources {
        if seen.insert((namespace, source)) {
            by_namespace.entry(namespace).or_default().push(source);
        }
    }
    let most = by_namespace.values().map(Vec::len).max().unwrap_or(0);
    let turns = (0..most).flat_map(|turn| by_namespace.values().filter_map(move |of| of.get(turn)));
    let mut taken = HashSet::new();
    turns
        .filter(|source| taken.insert(**source))
        .map(|source| KeySource::clone(source))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str) -> KeySource {
        KeySource {
            uri: uri.to_owned(),
            ca: None,
        }
    }

    #[test]
    fn namespaces_take_turns_and_sources_are_not_repeated() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(source);
        let greedy = [
            ("greedy", &a),
            ("greedy", &b),
            ("greedy", &a),
            ("greedy", &c),
        ];
        let modest = [("modest", &d), ("modest", &b)];
        let order = in_turns(greedy.into_iter().chain(modest));
        assert_eq!(order, [a, d, b, c]);
        assert!(in_turns(std::iter::empty()).is_empty());
    }
}
