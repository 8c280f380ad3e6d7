//! The zones of the cluster's nodes.

use std::collections::HashMap;
use std::sync::Arc;

use weft_ir::Locality;

use crate::objects::{Node, ZONE_LABEL};

/// Zone by node; nodes without a zone are left out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Zones(HashMap<String, String>);

impl Zones {
    pub(crate) fn new(nodes: &[Arc<Node>]) -> Self {
        let zones = nodes.iter().filter_map(|node| {
            let zone = node.metadata.labels.get(ZONE_LABEL)?;
            Some((node.metadata.name.clone(), zone.clone()))
        });
        Self(zones.collect())
    }

    /// Returns the zone of a node; empty if not known.
    pub(crate) fn zone(&self, node: &str) -> &str {
        self.0.get(node).map_or("", String::as_str)
    }

    /// Returns node and zone of the pods on a node.
    pub(crate) fn locality(&self, node: &str) -> Locality {
        Locality {
            node: node.to_owned(),
            zone: self.zone(node).to_owned(),
        }
    }
}
