//! The rules of one host or destination, and the look-up of the one that applies to a request.
//!
//! The precedence of matches is in `matching`. Between matches of the same precedence the rule that
//! comes first wins: the caller orders rules by the age of their route, then `namespace/name`, then
//! their place in it (Gateway API v1.7.0, `HTTPRouteRule.matches`).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use crate::matching::{matches, specificity, trim_slash};
use crate::route::{PathMatch, RequestMatch, Rule};

/// Tables with fewer matches are searched in order: that is faster than hashing the path.
const INDEXED_FROM: usize = 8;

/// Rules with what the caller compiled from each, a payload of type `P`.
#[derive(Clone, Debug)]
pub struct RouteTable<P> {
    rules: Vec<(Arc<Rule>, P)>,
    /// Every match of every rule in order of precedence. The place in this list is the match's
    /// rank.
    ranking: Vec<MatchRef>,
    /// `None` for a small table.
    index: Option<Box<PathIndex>>,
}

#[derive(Clone, Copy, Debug)]
struct MatchRef {
    rule: usize,
    position: usize,
}

/// The rule that applies to a request.
#[derive(Debug)]
pub struct Matched<'a, P> {
    /// The rule.
    pub rule: &'a Rule,
    /// What the caller compiled from the rule.
    pub payload: &'a P,
    /// The path condition of the match that held: a prefix rewrite replaces it.
    pub path: Option<&'a PathMatch>,
    /// The match has a condition that does not compile: the request is to be answered with 500.
    pub invalid: bool,
}

impl<P> RouteTable<P> {
    /// Builds the table from rules in the order that decides ties.
    pub fn new(rules: Vec<(Arc<Rule>, P)>) -> Self {
        let mut ranking: Vec<MatchRef> = Vec::new();
        for (rule, (of, _)) in rules.iter().enumerate() {
            ranking.extend((0..of.matches.len()).map(|position| MatchRef { rule, position }));
        }
        // A stable sort: matches of the same precedence keep the caller's order.
        ranking.sort_by_cached_key(|&MatchRef { rule, position }| {
            Reverse(specificity(&rules[rule].0.matches[position]))
        });
        let index = (ranking.len() >= INDEXED_FROM).then(|| {
            let mut index = Box::<PathIndex>::default();
            for (rank, &MatchRef { rule, position }) in ranking.iter().enumerate() {
                index.insert(rules[rule].0.matches[position].path.as_ref(), rank);
            }
            index
        });
        Self {
            rules,
            ranking,
            index,
        }
    }

    /// Returns the rules in the order that decides ties.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &P)> {
        self.rules.iter().map(|(rule, payload)| (&**rule, payload))
    }

    /// Returns the rule whose match takes precedence among those that the request fulfils.
    pub fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Matched<'_, P>> {
        let holds = |rank: usize| matches(self.condition(rank), method, uri, headers);
        let rank = match &self.index {
            None => (0..self.ranking.len()).find(|&rank| holds(rank)),
            Some(index) => index.first(uri.path(), holds),
        }?;
        let condition = self.condition(rank);
        let (rule, payload) = &self.rules[self.ranking[rank].rule];
        Some(Matched {
            rule,
            payload,
            path: condition.path.as_ref(),
            invalid: condition.invalid,
        })
    }

    fn condition(&self, rank: usize) -> &RequestMatch {
        let MatchRef { rule, position } = self.ranking[rank];
        &self.rules[rule].0.matches[position]
    }
}

/// Ranks of matches by the path condition. Each list is in ascending order.
#[derive(Clone, Debug, Default)]
struct PathIndex {
    exact: HashMap<Box<str>, Vec<usize>>,
    prefixes: PrefixNode,
    /// Matches with any other path condition, or none.
    others: Vec<usize>,
}

/// A node of the trie of prefixes, whose edges are path elements.
#[derive(Clone, Debug, Default)]
struct PrefixNode {
    ranks: Vec<usize>,
    children: HashMap<Box<str>, PrefixNode>,
}

impl PathIndex {
    fn insert(&mut self, condition: Option<&PathMatch>, rank: usize) {
        let ranks = match condition {
            Some(PathMatch::Exact(path)) => self.exact.entry(path.as_str().into()).or_default(),
            Some(PathMatch::Prefix(prefix)) => match elements(trim_slash(prefix)) {
                Some(elements) => self.prefixes.descend(elements),
                None => &mut self.others,
            },
            Some(PathMatch::Regex(_) | PathMatch::GrpcMethod(_)) | None => &mut self.others,
        };
        ranks.push(rank);
    }

    /// Returns the lowest rank that `holds`, among those whose path condition may hold.
    fn first(&self, path: &str, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut search = |ranks: &[usize]| {
            let bound = best.unwrap_or(usize::MAX);
            let mut better = ranks.iter().copied().take_while(|&rank| rank < bound);
            best = better.find(|&rank| holds(rank)).or(best);
        };
        if let Some(ranks) = self.exact.get(path) {
            search(ranks);
        }
        if let Some(elements) = elements(path) {
            self.prefixes.visit(elements, &mut search);
        }
        search(&self.others);
        best
    }
}

impl PrefixNode {
    /// Returns the ranks of the prefix, whose node is made if it is new.
    fn descend<'a>(&mut self, elements: impl Iterator<Item = &'a str>) -> &mut Vec<usize> {
        let mut node = self;
        for element in elements {
            node = node.children.entry(element.into()).or_default();
        }
        &mut node.ranks
    }

    /// Calls `search` for each prefix of the path, the longest first: it usually has the lowest
    /// rank, and ends the search of the shorter ones early.
    fn visit<'a>(
        &self,
        mut elements: impl Iterator<Item = &'a str>,
        search: &mut impl FnMut(&[usize]),
    ) {
        let child = elements.next().and_then(|next| self.children.get(next));
        if let Some(child) = child {
            child.visit(elements, search);
        }
        search(&self.ranks);
    }
}

/// Returns the elements of an empty path or of one that begins with `/`; `None` for any other.
fn elements(path: &str) -> Option<impl Iterator<Item = &str>> {
    let mut elements = path.split('/');
    // What comes before the first slash.
    elements
        .next()
        .is_none_or(str::is_empty)
        .then_some(elements)
}

#[cfg(test)]
mod tests;
