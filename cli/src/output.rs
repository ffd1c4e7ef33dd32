//! Writing to stdout, where a closed pipe or a full disk is an error like any other and not a panic, and to stderr, where
//! there is nobody to tell of either.

use runtime::ModelFile;
use std::io::{ErrorKind, Write};

/// Writes all of `text` now.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => e.into(),
        _ => runtime::Error::io("standard output", e).into(),
    })
}

/// Writes to stderr, if that is possible.
pub fn tell(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// Tells what is wrong with a model's file but does not keep it from being used, a line each.
pub fn warn<'a>(file: &ModelFile, what: impl IntoIterator<Item = &'a String>) {
    for what in what {
        tell(format_args!("warning: {}: {what}\n", file.path().display()));
    }
}

/// Prints warnings of the libraries.
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn && metadata.target().starts_with("runtime")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            tell(format_args!("warning: {}\n", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Has warnings of the libraries printed from now on.
pub fn show_warnings() {
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// `eprintln!`, but that nothing happens where it would panic.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::tell(format_args!("{}\n", format_args!($($text)*))) };
}
pub(crate) use note;
