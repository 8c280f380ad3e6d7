//! What is wrong with a route, collected while it is translated.

use std::collections::BTreeSet;

use weft_ir::ServicePort;

use super::patterns::PatternBudget;
use crate::conditions::Fault;

#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Decide about Accepted and PartiallyInvalid; with the place of their rule.
    pub(crate) faults: Vec<(u32, Fault)>,
    /// Decide about ResolvedRefs.
    pub(crate) unresolved: Vec<Fault>,
    /// What has no effect, though nothing is wrong.
    pub(crate) ignored: Vec<String>,
    /// What is in force with another value than was written, and why.
    pub(crate) adjusted: Vec<String>,
    /// Backends that were found, for Gateways, whether they can be used or not.
    pub(crate) targets: BTreeSet<ServicePort>,
    /// Those of them that can be used, if they have endpoints.
    pub(crate) usable: BTreeSet<ServicePort>,
    /// The regular expressions that were read.
    pub(crate) patterns: PatternBudget,
}

impl Report {
    pub(crate) fn fault(&mut self, rule: u32, fault: Fault) {
        self.faults.push((rule, fault));
    }

    /// The places of the rules that have faults, each once: `0, 2`.
    pub(crate) fn faulty_rules(&self) -> String {
        let mut places: Vec<u32> = self.faults.iter().map(|(rule, _)| *rule).collect();
        places.dedup();
        let texts: Vec<String> = places.iter().map(u32::to_string).collect();
        texts.join(", ")
    }
}
