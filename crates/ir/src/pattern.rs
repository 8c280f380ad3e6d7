//! Regular expressions written by users: matched in linear time, of bounded size, compared by their
//! text.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_syntax::hir::{Hir, Look};

/// Maximum length of a pattern in bytes, the limit of the Gateway API's types.
pub const MAX_PATTERN_TEXT: usize = 4096;
/// Maximum compiled size of a pattern for one direction of matching, in bytes.
const SIZE_LIMIT: usize = 256 * 1024;
/// Cache of lazily built states for each thread, in bytes. Patterns that need more match more
/// slowly, still in linear time.
const CACHE: usize = 128 * 1024;

/// A regular expression that must match the whole value. Cheap to clone.
#[derive(Clone)]
pub struct Pattern(Arc<Inner>);

struct Inner {
    text: Box<str>,
    size: usize,
    /// Compiled by [`Pattern::new`], or on first use. `None` if it does not compile, which is ruled
    /// out on construction.
    regex: OnceLock<Option<Regex>>,
}

/// The pattern does not compile, or is too large.
#[derive(Debug, thiserror::Error)]
#[error("regular expression {text:?}: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
    too_large: bool,
}

impl PatternError {
    /// Returns true if the pattern is valid but exceeds the size limit. Finding that out costs as
    /// much as compiling it.
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// If `text` is not a regular expression of the `regex` crate, is longer than
    /// [`MAX_PATTERN_TEXT`], or compiles to more than 256 KiB.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let regex = compile(text)?;
        Ok(Self::of(text, regex.memory_usage(), Some(regex)))
    }

    /// Like [`Pattern::new`], but the compiled form is dropped, for callers that only forward the
    /// pattern.
    pub fn checked(text: &str) -> Result<Self, PatternError> {
        Ok(Self::of(text, compile(text)?.memory_usage(), None))
    }

    fn of(text: &str, size: usize, regex: Option<Regex>) -> Self {
        Self(Arc::new(Inner {
            text: text.into(),
            size,
            regex: regex.map_or_else(OnceLock::new, |regex| OnceLock::from(Some(regex))),
        }))
    }

    /// Returns true if the pattern matches the whole value.
    pub fn is_match(&self, value: &str) -> bool {
        let regex = self.0.regex.get_or_init(|| compile(&self.0.text).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(value))
    }

    /// Returns the text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Returns the size of the compiled pattern in bytes.
    pub fn compiled_size(&self) -> usize {
        self.0.size
    }
}

/// Compiled patterns by text. A pattern that several resources have, or that is in the next version
/// of a resource again, is compiled once for as long as it is in use.
#[derive(Debug, Default)]
pub struct Patterns(HashMap<Box<str>, Weak<Inner>>);

impl Patterns {
    /// Returns the compiled pattern of this text.
    ///
    /// # Errors
    ///
    /// As [`Pattern::new`].
    pub fn get(&mut self, text: &str) -> Result<Pattern, PatternError> {
        if let Some(known) = self.0.get(text).and_then(Weak::upgrade) {
            return Ok(Pattern(known));
        }
        let pattern = Pattern::new(text)?;
        self.0.insert(text.into(), Arc::downgrade(&pattern.0));
        Ok(pattern)
    }

    /// Removes the patterns that are not in use.
    pub fn prune(&mut self) {
        self.0.retain(|_, pattern| pattern.strong_count() > 0);
    }
}

/// Returns the number of character classes in a pattern as it is written. Each can stand for
/// thousands of ranges, so that parsing costs far more than the text suggests.
pub fn character_classes(pattern: &str) -> usize {
    let mut count = 0;
    let mut bytes = pattern.bytes();
    while let Some(byte) = bytes.next() {
        count += usize::from(match byte {
            b'[' => true,
            b'\\' => matches!(
                bytes.next(),
                Some(b'w' | b'W' | b'd' | b'D' | b's' | b'S' | b'p' | b'P')
            ),
            _ => false,
        });
    }
    count
}

/// Parsed separately, so that an unbalanced `)` cannot close the group between the anchors.
fn compile(text: &str) -> Result<Regex, PatternError> {
    let refuse = |reason: String| PatternError {
        text: shortened(text),
        reason,
        too_large: false,
    };
    if text.len() > MAX_PATTERN_TEXT {
        let reason = format!(
            "has {} bytes, the maximum is {MAX_PATTERN_TEXT}",
            text.len()
        );
        return Err(refuse(reason));
    }
    let parsed = syntax::parse_with(text, &syntax::Config::new());
    let parsed = parsed.map_err(|error| refuse(last_line(&error)))?;
    let whole = Hir::concat(vec![Hir::look(Look::Start), parsed, Hir::look(Look::End)]);
    let config = Regex::config()
        .nfa_size_limit(Some(SIZE_LIMIT))
        .onepass_size_limit(Some(CACHE))
        .hybrid_cache_capacity(CACHE);
    let built = Regex::builder().configure(config).build_from_hir(&whole);
    built.map_err(|error| PatternError {
        too_large: error.size_limit().is_some(),
        ..refuse(too_large(&error))
    })
}

fn too_large(error: &BuildError) -> String {
    match error.size_limit() {
        Some(limit) => format!("compiles to more than {limit} bytes"),
        None => last_line(error),
    }
}

/// Returns the reason; the lines before it show the position.
fn last_line(error: &impl fmt::Display) -> String {
    let words = error.to_string();
    let last = words.lines().last().unwrap_or("invalid").trim();
    last.trim_start_matches("error: ").to_owned()
}

/// Shortens a text for messages.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 100;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.as_str())
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_must_match_the_whole_value() {
        for pattern in [Pattern::new("a|bc"), Pattern::checked("a|bc")] {
            let pattern = pattern.unwrap();
            assert!(pattern.is_match("a") && pattern.is_match("bc"));
            assert!(!pattern.is_match("ab") && !pattern.is_match("abc"));
            assert!(!pattern.is_match("a\n") && !pattern.is_match("\na"));
        }
        // A comment cannot hide the final anchor either.
        let commented = Pattern::new("(?x) a # b").unwrap();
        assert!(commented.is_match("a") && !commented.is_match("ab"));
        let lines = Pattern::new("(?m)^a$|b").unwrap();
        assert!(lines.is_match("a") && !lines.is_match("x\na") && !lines.is_match("a\nx"));
    }

    #[test]
    fn hostile_patterns_are_rejected_with_a_reason() {
        for text in [
            "(",
            "a)|(b",
            "[",
            "(?P<n",
            r"\1",
            "(?=a)",
            "((a{99}){99}){99}",
            r"\w{9}",
            &"a".repeat(MAX_PATTERN_TEXT + 1),
        ] {
            let refused = Pattern::new(text).unwrap_err().to_string();
            assert!(refused.contains("regular expression"), "{text}");
            assert!(refused.len() < 300, "{refused}");
            assert!(Pattern::checked(text).is_err(), "{text}");
        }
    }

    /// Limits count the memory that is actually held.
    #[test]
    fn compiled_size_distinguishes_small_and_large_patterns() {
        let size = |text| Pattern::checked(text).unwrap().compiled_size();
        assert!(
            size("/v[0-9]+/users") < 32 * 1024,
            "{}",
            size("/v[0-9]+/users")
        );
        assert!(size(r"\w{4}") > 200 * 1024, "{}", size(r"\w{4}"));
        assert_eq!(
            size(r"\w{4}"),
            Pattern::new(r"\w{4}").unwrap().compiled_size()
        );
    }

    #[test]
    fn character_classes_are_counted_in_the_text() {
        for (pattern, classes) in [
            ("/a.b*", 0),
            (r"\\w\[\.", 0),
            (r"\w\pL\\\d", 3),
            (r"[a-z][^\s]", 3),
            ("\\", 0),
        ] {
            assert_eq!(character_classes(pattern), classes, "{pattern}");
        }
    }

    #[test]
    fn pattern_in_use_is_compiled_once() {
        let mut patterns = Patterns::default();
        let first = patterns.get("a+").unwrap();
        assert!(Arc::ptr_eq(&first.0, &patterns.get("a+").unwrap().0));
        drop(first);
        patterns.prune();
        assert!(patterns.0.is_empty() && patterns.get("(").is_err());
    }
}
