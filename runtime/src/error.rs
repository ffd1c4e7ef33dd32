//! The errors of this crate, by cause.

use std::path::PathBuf;

/// Shorthand for results with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. The text is one sentence that a user can act on; the variant is the cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value given by the user or by a file is not what it must be.
    #[error("{what}")]
    Input {
        /// What is wrong, naming the field or flag and its value.
        what: String,
    },
    /// A file could not be read, written or mapped.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Understood, but not built.
    #[error("{feature} is not supported; {hint}")]
    Unsupported {
        /// The feature, by its own name.
        feature: String,
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
    /// Memory that this machine does not have, or does not give.
    #[error("{what} needs {}{}", bytes(*need), have.map_or(", which the system refuses".into(), |h| format!(", but {} can be had; close other programs, or take a smaller model or context", bytes(h))))]
    Memory {
        /// What the memory is for.
        what: String,
        /// Bytes asked for.
        need: u64,
        /// Bytes at hand, where known.
        have: Option<u64>,
    },
    /// The model gave logits that no token can be chosen by: NaN, infinity, or nothing but -infinity.
    #[error("the logits{} are not finite; a number in the model file is not, or has grown too large: compare the file with its source, or take another --kv", after.map_or(String::new(), |(id, position)| format!(" after token {id} at position {position}")))]
    NotFinite {
        /// The token after which they came, and its position, where known.
        after: Option<(u32, usize)>,
    },
    /// The device cannot do it, or this machine is not fit for it.
    #[error("{what}")]
    Device {
        /// What failed and what to do.
        what: String,
    },
    /// A kernel failed.
    #[error("kernel {kernel}{} failed: {cause}", launch.map(|n| format!(", launch {n},")).unwrap_or_default())]
    Launch {
        /// Its name.
        kernel: String,
        /// The number of its launch in the recording, where known.
        launch: Option<usize>,
        /// What the device says.
        cause: String,
    },
    /// From the forms and parsers of `ir`.
    #[error(transparent)]
    Ir(#[from] ir::Error),
}

impl Error {
    /// An [`Error::Input`].
    pub fn input(what: impl Into<String>) -> Self {
        Error::Input { what: what.into() }
    }

    /// This error, if it is [`Error::NotFinite`] with the token that the logits came after.
    #[must_use]
    pub fn after(self, id: u32, position: usize) -> Self {
        match self {
            Error::NotFinite { .. } => Error::NotFinite { after: Some((id, position)) },
            other => other,
        }
    }

    /// An [`Error::Device`].
    pub fn device(what: impl Into<String>) -> Self {
        Error::Device { what: what.into() }
    }

    /// An [`Error::Io`] of `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(feature: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unsupported { feature: feature.into(), hint: hint.into() }
    }
}

/// A number of bytes as people read it.
fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} bytes"),
        10_000..10_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}
