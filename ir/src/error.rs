//! The errors of this crate, by cause.

/// Shorthand for results with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. The text is one sentence that a user can act on; the variant is the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file's bytes are not what their format says; `at` is a byte offset where known.
    #[error("{what}{}", at.map(|a| format!(" (at byte {a})")).unwrap_or_default())]
    Malformed {
        /// What is wrong, naming the field and its value.
        what: String,
        /// Byte offset in the file.
        at: Option<u64>,
    },
    /// A form breaks one of its rules: a bug in whatever built it.
    #[error("{form} is invalid: {what}")]
    Verify {
        /// The form: graph, kernel, plan, manifest.
        form: &'static str,
        /// The rule and the ids involved.
        what: String,
    },
    /// A table of schedules, or one of its rows, cannot be used.
    #[error("{row}: {what}")]
    Schedule {
        /// The file, and the number of the row in it.
        row: String,
        /// The rule that it breaks, with what is allowed.
        what: String,
    },
    /// Understood, but not built; refused when compiling.
    #[error("{feature} is not supported{}; {hint}", target.as_deref().map(|t| format!(" for {t}")).unwrap_or_default())]
    Unsupported {
        /// The feature, by its own name.
        feature: String,
        /// The target that lacks it, when it is the target's limit.
        target: Option<String>,
        /// The nearest thing that works.
        hint: String,
    },
    /// A figure exceeds what is allowed or at hand.
    #[error("{what} needs {need}, but {have} is the limit")]
    Limit {
        /// What is limited.
        what: String,
        /// The figure asked for.
        need: u64,
        /// The figure allowed.
        have: u64,
    },
}

impl Error {
    /// A [`Error::Malformed`] without an offset.
    pub fn malformed(what: impl Into<String>) -> Self {
        Error::Malformed { what: what.into(), at: None }
    }

    /// A [`Error::Verify`] of `form`.
    pub fn verify(form: &'static str, what: impl Into<String>) -> Self {
        Error::Verify { form, what: what.into() }
    }

    /// A [`Error::Unsupported`] that no target would support.
    pub fn unsupported(feature: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unsupported { feature: feature.into(), target: None, hint: hint.into() }
    }
}
