//! The regular expressions of one route: each compiled once, within the limits of a route.

use std::collections::HashMap;

use weft_ir::{Pattern, character_classes};

use crate::conditions::Fault;
use crate::limits::{
    PATTERN_COMPILED, ROUTE_CLASSES, ROUTE_COMPILED, ROUTE_PATTERN_TEXT, ROUTE_PATTERNS, too_large,
};

/// The regular expressions of a route so far, counted against the limits.
#[derive(Debug, Default)]
pub(crate) struct PatternBudget {
    known: HashMap<String, Result<Pattern, String>>,
    text: usize,
    classes: usize,
    compiled: usize,
    over: Option<String>,
}

impl PatternBudget {
    /// Returns the pattern, or why it is invalid. Once a limit is exceeded nothing more is
    /// compiled, since the route is rejected.
    pub(crate) fn get(&mut self, text: &str) -> Result<Pattern, String> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        self.text += text.len();
        self.classes += character_classes(text);
        if self.known.len() == ROUTE_PATTERNS {
            self.exceed(format!(
                "it has more than {ROUTE_PATTERNS} different regular expressions"
            ));
        } else if self.text > ROUTE_PATTERN_TEXT {
            self.exceed(format!(
                "the text of its regular expressions has more than {ROUTE_PATTERN_TEXT} bytes"
            ));
        } else if self.classes > ROUTE_CLASSES {
            self.exceed(format!(
                "its regular expressions have more than {ROUTE_CLASSES} character classes"
            ));
        }
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        let pattern = Pattern::checked(text);
        self.compiled += match &pattern {
            Ok(pattern) => pattern.compiled_size(),
            Err(error) if error.is_too_large() => PATTERN_COMPILED,
            Err(_) => 0,
        };
        if self.compiled > ROUTE_COMPILED {
            self.exceed(format!(
                "its regular expressions compile to more than {ROUTE_COMPILED} bytes"
            ));
        }
        let pattern = pattern.map_err(|error| error.to_string());
        self.known.insert(text.to_owned(), pattern.clone());
        pattern
    }

    fn exceed(&mut self, why: String) {
        self.over.get_or_insert(why);
    }

    /// Returns which limit is exceeded.
    pub(crate) fn exceeded(&self) -> Option<&str> {
        self.over.as_deref()
    }

    /// Returns a fault if the route exceeds a limit.
    pub(crate) fn too_large(&self) -> Option<Fault> {
        let over = self.exceeded()?;
        Some(too_large(format!(
            "{over}, the limit of a route; use exact and prefix matches, ASCII classes such as \
             [0-9a-z] instead of \\w and \\d, or several routes"
        )))
    }
}
