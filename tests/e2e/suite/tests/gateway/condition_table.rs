//! Tables of expected conditions. Each line is a row:
//!
//! ```text
//! name | condition | reason | words; of the message
//! ```
//!
//! The words name the cause and, if there is one, the fix.

use serde_json::Value;
use weft_e2e::objects::Conditions;

/// A row of a table.
#[derive(Clone, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    condition: &'a str,
    reason: &'a str,
    words: Vec<&'a str>,
}

/// The rows of a table.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| {
        let mut cells = line.split('|').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default();
        Row {
            name: cell(),
            condition: cell(),
            reason: cell(),
            words: cell().split(';').map(str::trim).collect(),
        }
    })
}

impl Row<'_> {
    pub(crate) fn check(&self, conditions: &Conditions) -> anyhow::Result<()> {
        let Row {
            name,
            condition,
            reason,
            words,
        } = self;
        let (_, seen, message) = conditions.of(condition)?;
        anyhow::ensure!(
            seen == *reason,
            "{name}: {condition} should be {reason}: {conditions}"
        );
        for word in words {
            anyhow::ensure!(
                message.contains(word),
                "{name}: the message of {condition} should contain {word:?}: {message}"
            );
        }
        Ok(())
    }
}

/// Returns the object with one more field.
pub(crate) fn with(mut object: Value, field: &str, value: Value) -> Value {
    object[field] = value;
    object
}
