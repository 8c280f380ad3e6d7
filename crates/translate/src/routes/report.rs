//! The faults of a route, collected during its translation.

use std::collections::BTreeSet;

use weft_ir::ServicePort;

use super::patterns::PatternBudget;
use crate::conditions::Fault;

/// The faults of a route.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Faults of the conditions Accepted and PartiallyInvalid, with the index of the rule.
    pub(crate) faults: Vec<(u32, Fault)>,
    /// Faults of the condition ResolvedRefs.
    pub(crate) unresolved: Vec<Fault>,
    /// Unsupported fields that have no effect.
    pub(crate) ignored: Vec<String>,
    /// Values that were adjusted, and why.
    pub(crate) adjusted: Vec<String>,
    /// For Gateways: the backends that exist, whether usable or not.
    pub(crate) targets: BTreeSet<ServicePort>,
    /// The subset of `targets` that is usable if it has endpoints.
    pub(crate) usable: BTreeSet<ServicePort>,
    /// The regular expressions of the route.
    pub(crate) patterns: PatternBudget,
}

impl Report {
    pub(crate) fn fault(&mut self, rule: u32, fault: Fault) {
        self.faults.push((rule, fault));
    }

    /// Adds the fault that makes a rule or a backend fail: of a value, or of a reference.
    pub(crate) fn failure(&mut self, rule: u32, fault: Fault) {
        match fault.is_of_reference() {
            true => self.unresolved.push(fault),
            false => self.fault(rule, fault),
        }
    }

    pub(crate) fn fault_all(&mut self, rule: u32, faults: Vec<Fault>) {
        let faults = faults.into_iter().map(|fault| (rule, fault));
        self.faults.extend(faults);
    }

    /// Returns the indexes of the rules that have faults, each once: `0, 2`.
    pub(crate) fn faulty_rules(&self) -> String {
        let mut places: Vec<u32> = self.faults.iter().map(|(rule, _)| *rule).collect();
        places.dedup();
        let texts: Vec<String> = places.iter().map(u32::to_string).collect();
        texts.join(", ")
    }
}
