//! Regular expressions as Python's `re` matches them against the paths of layers.

use fancy_regex::{Captures, Regex};

use crate::config::targets::short_names;
use crate::error::LoraError;

/// A regular expression from a configuration.
///
/// peft's patterns are Python's, with lookahead and lookbehind, so they are matched by backtracking; a pattern that would need
/// too many steps is an error.
pub(super) struct Pattern<'a> {
    /// The expression as it was written.
    text: &'a str,
    regex: Regex,
    /// The layers of the model, for errors.
    paths: &'a [String],
}

impl<'a> Pattern<'a> {
    /// Compiles `text`, put into `around` in the place of `{}`.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`] when it is no regular expression.
    pub(super) fn new(text: &'a str, around: &str, paths: &'a [String]) -> Result<Self, LoraError> {
        let regex = Regex::new(&around.replace("{}", text)).map_err(|error| {
            let reason = format!("cannot be compiled ({error})");
            invalid(text, reason, paths)
        })?;
        Ok(Self { text, regex, paths })
    }

    /// Returns what matches in `path`.
    ///
    /// # Errors
    /// [`LoraError::InvalidPattern`] when that takes too many steps.
    pub(super) fn captures<'p>(&self, path: &'p str) -> Result<Option<Captures<'p>>, LoraError> {
        self.regex.captures(path).map_err(|error| {
            let reason = format!("cannot be matched against `{path}` ({error})");
            invalid(self.text, reason, self.paths)
        })
    }

    /// Returns whether `path` matches.
    ///
    /// # Errors
    /// As for [`captures`](Self::captures).
    pub(super) fn is_match(&self, path: &str) -> Result<bool, LoraError> {
        Ok(self.captures(path)?.is_some())
    }

    /// Returns which of the layers match.
    ///
    /// # Errors
    /// As for [`captures`](Self::captures).
    pub(super) fn matches(&self) -> Result<Vec<bool>, LoraError> {
        self.paths.iter().map(|path| self.is_match(path)).collect()
    }

    /// Returns the error of a pattern that matches none of the layers.
    pub(super) fn without_a_match(&self) -> LoraError {
        invalid(self.text, "matches no layer".into(), self.paths)
    }
}

fn invalid(text: &str, reason: String, paths: &[String]) -> LoraError {
    LoraError::InvalidPattern {
        pattern: text.to_owned(),
        reason,
        known: short_names(paths),
    }
}
