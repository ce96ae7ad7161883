//! Regular expressions of imported rows. Only who judges needs them, and they are big: a program built without the
//! feature `patterns` refuses such rows by name.

use super::imported::RowError;

/// Largest compiled size, in bytes.
#[cfg(feature = "patterns")]
const SIZE_MAX: usize = 1024 * 1024;

/// A compiled expression.
#[cfg(feature = "patterns")]
#[derive(Debug, Clone)]
pub(super) struct Expression(regex::Regex);

#[cfg(feature = "patterns")]
impl Expression {
    /// Compiles a pattern, within limits.
    pub(super) fn compile(pattern: &str) -> Result<Self, RowError> {
        let last_line = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().to_owned();
        regex::RegexBuilder::new(pattern)
            .size_limit(SIZE_MAX)
            .dfa_size_limit(SIZE_MAX)
            .build()
            .map(Self)
            .map_err(|error| RowError::Regexp(last_line(error)))
    }

    /// Whether it matches anywhere in `seen`.
    pub(super) fn is_match(&self, seen: &str) -> bool {
        self.0.is_match(seen)
    }
}

/// None can be made.
#[cfg(not(feature = "patterns"))]
#[derive(Debug, Clone)]
pub(super) enum Expression {}

#[cfg(not(feature = "patterns"))]
impl Expression {
    pub(super) fn compile(_: &str) -> Result<Self, RowError> {
        Err(RowError::Regexp("this program is built without regular expressions".to_owned()))
    }

    pub(super) fn is_match(&self, _: &str) -> bool {
        match *self {}
    }
}
