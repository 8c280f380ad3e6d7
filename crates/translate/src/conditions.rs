//! Conditions of statuses, and the faults that they report.

use std::fmt;

use crate::output::Condition;

/// Length limit of a condition's message in bytes. The API server accepts 32 KiB.
const MESSAGE_LIMIT: usize = 8192;

/// Reasons of faults of references to filters, which concern ResolvedRefs.
pub(crate) const FILTER_NOT_FOUND: &str = "FilterNotFound";
pub(crate) const INVALID_FILTER: &str = "InvalidFilter";

/// Why a value, a filter or a reference is rejected, with its field path: `rules[0].filters[1]:
/// ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The reason of the condition.
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Fault {
    /// An unsupported or invalid value.
    pub(crate) fn value(at: &str, why: impl fmt::Display) -> Self {
        Self {
            reason: "UnsupportedValue",
            text: format!("{at}: {why}"),
        }
    }

    /// Returns true for a reference of a rule that leads to nothing usable.
    pub(crate) fn is_of_reference(&self) -> bool {
        [FILTER_NOT_FOUND, INVALID_FILTER].contains(&self.reason)
    }

    /// Filters that cannot be combined.
    pub(crate) fn filters(at: &str, why: impl fmt::Display) -> Self {
        Self {
            reason: "IncompatibleFilters",
            text: format!("{at}: {why}"),
        }
    }
}

pub(crate) fn condition(kind: &str, status: bool, reason: &str, mut message: String) -> Condition {
    if message.len() > MESSAGE_LIMIT {
        let fits = |end: &usize| message.is_char_boundary(*end);
        let end = (0..=MESSAGE_LIMIT - 3).rev().find(fits).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

pub(crate) fn join<'a>(faults: impl Iterator<Item = &'a Fault>) -> String {
    let texts: Vec<&str> = faults.map(|fault| fault.text.as_str()).collect();
    texts.join("; ")
}
