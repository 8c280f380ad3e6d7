//! Regular expressions that users write: linear time, bounded size, compared as text.

use regex::{Regex, RegexBuilder};

/// Compiled size that a pattern may take, in bytes.
const SIZE_LIMIT: usize = 256 * 1024;

/// A regular expression that must match the whole value.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// The pattern does not compile, or is too large to be run on every request.
#[derive(Debug, thiserror::Error)]
#[error("regular expression {text:?}: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
}

impl Pattern {
    /// Errors when `text` is no regular expression of the `regex` crate, or compiles to more than 256 KiB.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let refuse = |error: regex::Error| PatternError {
            text: text.to_owned(),
            reason: first_reason(&error),
        };
        // Parsed alone first, so that no unbalanced `)` can reach the anchors around it.
        RegexBuilder::new(text)
            .size_limit(SIZE_LIMIT)
            .build()
            .map_err(refuse)?;
        let anchored = format!("^(?:{text})$");
        let regex = RegexBuilder::new(&anchored)
            .size_limit(SIZE_LIMIT)
            .build()
            .map_err(refuse)?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }

    pub fn is_match(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

fn first_reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("compiles to more than {limit} bytes"),
        other => other
            .to_string()
            .lines()
            .last()
            .unwrap_or("invalid")
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_value_must_match() {
        let pattern = Pattern::new("a|bc").unwrap();
        assert!(pattern.is_match("a") && pattern.is_match("bc"));
        assert!(!pattern.is_match("ab") && !pattern.is_match("abc") && !pattern.is_match("a\n"));
    }

    #[test]
    fn hostile_patterns_are_refused_with_a_reason() {
        for text in [
            "(",
            "a)|(b",
            "[",
            "(?P<n",
            r"\1",
            "(?=a)",
            "((a{99}){99}){99}",
            "(?x) a #",
        ] {
            assert!(
                Pattern::new(text)
                    .unwrap_err()
                    .to_string()
                    .contains("regular expression"),
                "{text}"
            );
        }
    }
}
