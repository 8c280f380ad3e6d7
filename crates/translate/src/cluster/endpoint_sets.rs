//! The endpoint sets of a Service port as clients see them: one for all clients, or one for the
//! clients of each node.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_ir::EndpointSet;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EndpointSets {
    /// All endpoints of the port.
    pub(crate) whole: Arc<EndpointSet>,
    /// `None` if every client sees all endpoints.
    local: Option<Local>,
}

/// `internalTrafficPolicy: Local`: clients see the endpoints of their own node.
#[derive(Clone, Debug, PartialEq)]
struct Local {
    nodes: BTreeMap<String, Arc<EndpointSet>>,
    /// Without endpoints, for clients on nodes that have none.
    elsewhere: Arc<EndpointSet>,
}

impl EndpointSets {
    /// The same set for every client.
    pub(crate) fn cluster_wide(whole: EndpointSet) -> Self {
        Self {
            whole: Arc::new(whole),
            local: None,
        }
    }

    /// One set for the clients of each node in `nodes`.
    pub(crate) fn local(whole: EndpointSet, nodes: BTreeMap<String, EndpointSet>) -> Self {
        let mut elsewhere = whole.clone();
        elsewhere.endpoints.clear();
        elsewhere.choice.hints.clear();
        let nodes = nodes.into_iter();
        Self {
            whole: Arc::new(whole),
            local: Some(Local {
                nodes: nodes.map(|(node, set)| (node, Arc::new(set))).collect(),
                elsewhere: Arc::new(elsewhere),
            }),
        }
    }

    /// Returns the set that clients on the node see.
    pub(crate) fn for_node(&self, node: &str) -> &Arc<EndpointSet> {
        match &self.local {
            None => &self.whole,
            Some(local) => local.nodes.get(node).unwrap_or(&local.elsewhere),
        }
    }

    /// Returns each set that some client sees.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<EndpointSet>> {
        let cluster_wide = self.local.is_none().then_some(&self.whole);
        let local = self.local.iter();
        let local = local.flat_map(|of| of.nodes.values().chain([&of.elsewhere]));
        cluster_wide.into_iter().chain(local)
    }

    /// Applies `change` to each set.
    pub(crate) fn map(&self, change: impl Fn(&EndpointSet) -> EndpointSet) -> Self {
        let change = |set: &Arc<EndpointSet>| Arc::new(change(set));
        let local = self.local.as_ref().map(|local| Local {
            nodes: {
                let nodes = local.nodes.iter();
                nodes
                    .map(|(node, set)| (node.clone(), change(set)))
                    .collect()
            },
            elsewhere: change(&local.elsewhere),
        });
        Self {
            whole: change(&self.whole),
            local,
        }
    }

    /// Returns `before` if it is equal; otherwise shares those of its sets that are equal.
    pub(crate) fn interned(mut self, before: Option<&Arc<Self>>) -> Arc<Self> {
        let Some(before) = before else {
            return Arc::new(self);
        };
        if **before == self {
            return Arc::clone(before);
        }
        keep(&mut self.whole, &before.whole);
        if let (Some(now), Some(before)) = (&mut self.local, &before.local) {
            keep(&mut now.elsewhere, &before.elsewhere);
            for (node, set) in &mut now.nodes {
                if let Some(before) = before.nodes.get(node) {
                    keep(set, before);
                }
            }
        }
        Arc::new(self)
    }
}

fn keep(now: &mut Arc<EndpointSet>, before: &Arc<EndpointSet>) {
    if **now == **before {
        now.clone_from(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_ir::{Endpoint, Hints, Protocol, ServicePort};

    fn set(addresses: &[&str]) -> EndpointSet {
        let endpoints = addresses.iter().map(|address| Endpoint {
            address: address.parse().unwrap(),
            identity: None,
        });
        let id = ServicePort::new("shop", "agent", 80);
        EndpointSet::new(id, Protocol::Http1, endpoints.collect())
    }

    fn local(nodes: &[(&str, &[&str])]) -> EndpointSets {
        let all: Vec<&str> = nodes
            .iter()
            .flat_map(|(_, of)| of.iter().copied())
            .collect();
        let nodes = nodes.iter().map(|(node, of)| ((*node).to_owned(), set(of)));
        EndpointSets::local(set(&all), nodes.collect())
    }

    #[test]
    fn nodes_without_endpoints_have_no_hints() {
        let mut whole = set(&["10.0.0.1:80"]);
        let address = whole.endpoints[0].address;
        whole.choice.hints.insert(address, Hints::default());
        let sets = EndpointSets::local(whole, BTreeMap::new());
        assert_eq!(**sets.for_node("a"), set(&[]));
    }

    #[test]
    fn change_on_one_node_keeps_the_sets_of_others() {
        let first = Arc::new(local(&[("a", &["10.0.0.1:80"]), ("b", &["10.0.0.2:80"])]));
        let again = local(&[("a", &["10.0.0.1:80"]), ("b", &["10.0.0.2:80"])]);
        assert!(Arc::ptr_eq(&again.interned(Some(&first)), &first));
        let next = local(&[("a", &["10.0.0.1:80"]), ("b", &["10.0.0.3:80"])]);
        let next = next.interned(Some(&first));
        for (node, same) in [("a", true), ("b", false), ("c", true)] {
            assert_eq!(
                Arc::ptr_eq(next.for_node(node), first.for_node(node)),
                same,
                "{node}"
            );
        }
        assert!(next.for_node("c").endpoints.is_empty());
        assert_eq!(next.iter().count(), 3);
    }
}
