//! What is wrong with a text.

/// Why a text is no PTX module that the emulator executes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Line of the PTX, from 1.
    pub line: u32,
    /// What is wrong there.
    pub what: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, what: impl Into<String>) -> Self {
        ParseError { line, what: what.into() }
    }
}
